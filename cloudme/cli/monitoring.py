"""Which machines are asked or listened to, and what becomes of those that do not answer."""

from __future__ import annotations

import argparse
import os
import sys

from cloudme import cli, monitors
from cloudme.cli import selection
from cloudme.errors import CloudMeError
from cloudme.monitors import Speaker
from cloudme.store import Store


def speakers(args: argparse.Namespace, store: Store) -> list[Speaker]:
    """The machines that the options choose: without names and group all that run. Raises NotFound, UsageError."""
    if args.names or args.group or args.type:
        machines = selection.machines(args, store)
    else:
        machines = [machine for machine in store.machines() if store.is_running(machine)]
    return [monitors.of(store, machine) for machine in machines]


class Troubles:
    """What went wrong with some of several: told as it comes; the exit status is that of the first."""

    def __init__(self) -> None:
        self.status = 0

    def tell(self, name: str, error: CloudMeError) -> None:
        self.status = self.status or error.exit_status
        message = error.message if f"'{name}'" in error.message else f"{name}: {error.message}"
        print(f"{os.path.basename(sys.argv[0])}: {cli.plain(message)}", file=sys.stderr, flush=True)

