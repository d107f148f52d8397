"""What vmobserve prints."""

from __future__ import annotations

import argparse
import json
from datetime import datetime

from cloudme.cli import monitoring
from cloudme.model.ports import Event, Host
from cloudme.store import Store


def run(args: argparse.Namespace, store: Store, host: Host) -> int:
    """Print events until all machines have gone. Returns the exit status."""
    troubles = monitoring.Troubles()
    chosen = monitoring.speakers(args, store)
    line = as_json if args.json else as_text
    host.events.follow({speaker.name: speaker.events for speaker in chosen},
                       lambda event: print(line(event), flush=True), troubles.tell)
    return troubles.status


def as_json(event: Event) -> str:
    return json.dumps({"time": event.time_s, "machine": event.machine, "event": event.name, "data": event.data})


def as_text(event: Event) -> str:
    """In the host's local time. JSON's quotes keep from the terminal what a QEMU in a guest's hands may say."""
    time = datetime.fromtimestamp(event.time_s).isoformat(timespec="milliseconds")
    name = json.dumps(event.name)[1:-1]
    return " ".join([time, event.machine, name, *([json.dumps(event.data)] if event.data else [])])
