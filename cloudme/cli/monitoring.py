"""Which machines are asked or listened to, and what becomes of those that do not answer."""

from __future__ import annotations

import argparse
import os
import sys

from cloudme import index, layout, monitors
from cloudme.cli import selection
from cloudme.errors import CloudMeError, UsageError
from cloudme.monitors import Speaker
from cloudme.store import Store


def speakers(args: argparse.Namespace, store: Store) -> list[Speaker]:
    """The machines that the options choose: without names and group all that run. Raises NotFound, UsageError."""
    known = index.names(store.world.machines)
    defined = [name for name in index.names(layout.MACHINA_RUN) if name not in known]
    if args.type and not args.group:
        raise UsageError("a type is one of a group", hint="see --help")
    if not args.names and not args.group:
        machines = [machine for machine in store.machines() if store.is_running(machine)]
        defined = defined if store.world.data == layout.ROOT_DATA and not store.world.realm else []
    else:
        names = [name for name in args.names if name not in defined]
        ours = argparse.Namespace(**{**vars(args), "names": names})
        machines = selection.machines(ours, store) if names or args.group else []
        defined = [name for name in defined if name in args.names]
    return [*(monitors.of(store, machine) for machine in machines),
            *(monitors.of_definition(name, layout.MACHINA_RUN) for name in defined)]


class Troubles:
    """What went wrong with some of several: told as it comes; the exit status is that of the first."""

    def __init__(self) -> None:
        self.status = 0

    def tell(self, name: str, error: CloudMeError) -> None:
        self.status = self.status or error.exit_status
        message = error.message if f"'{name}'" in error.message else f"{name}: {error.message}"
        print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr, flush=True)

