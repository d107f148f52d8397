"""What cmsshconfig does."""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from cloudme import cli
from cloudme.errors import UsageError
from cloudme.formats.sshconfig import INCLUDE
from cloudme.layout import World
from cloudme.model.ports import Host
from cloudme.operations import sshconfig
from cloudme.store import Store


def run(args: argparse.Namespace, store: Store, host: Host) -> None:
    place = sshconfig.Place(os.path.expanduser("~/.ssh"), store.world.realm)
    if args.remove and args.include:
        raise UsageError("--include and --remove exclude each other", hint=f"the line '{INCLUDE}' harms nobody")
    if args.remove:
        steps = sshconfig.removing(place)
    else:
        head = "Written by cmsshconfig, and anew by the next one: what you write here is lost."
        wanted = sshconfig.text(store, store.machines(), proxy(store.world), head)
        steps = sshconfig.writing(place, wanted, include=args.include)
    with cli.transaction(args, host) as transaction:
        transaction.apply(steps)
    if args.dry_run:
        return
    if not steps:
        cli.teller(args)("it is so already")
    if not args.remove:
        if not sshconfig.included(place):
            cli.teller(args)(f"ssh does not read it: '--include' puts the line '{INCLUDE}' at the head of {place.main}")
        print(place.file)


def proxy(world: World) -> list[str]:
    """What connects to a machine by its name, wherever ssh is started: `vm --proxy` in this world."""
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(sys.argv[0]))), "bin", "vm")
    vm = beside if os.path.exists(beside) else shutil.which("vm") or "vm"
    home = os.environ.get("CLOUDME_HOME")
    return [*(["env", f"CLOUDME_HOME={os.path.abspath(home)}"] if home else []), vm, "--proxy",
            *(["--realm", world.realm] if world.realm else [])]
