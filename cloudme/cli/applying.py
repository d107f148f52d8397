"""What cmapply and cmdump do with their options."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence

from cloudme import cli, index, layout
from cloudme.cli import launching, machines, wiring
from cloudme.errors import CloudMeError, NotFound, SpecError, UsageError
from cloudme.formats import homelab as homelab_format
from cloudme.homelab import dumping, notes, pruning, site
from cloudme.homelab.bringing import Bringing, Voice, Wishes
from cloudme.homelab.outcomes import Outcome
from cloudme.homelab.pruning import Left
from cloudme.homelab.site import Site
from cloudme.model.definitions.nouns import HostConfiguration
from cloudme.model.homelab import planned
from cloudme.model.homelab.nouns import Homelab, Severity
from cloudme.model.ports import Host
from cloudme.store import Store

KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")
"""As ssh-keygen(1) names them, in ~/.ssh."""


def apply(args: argparse.Namespace) -> int:
    """Returns the exit status of the first machine, or network, that failed."""
    store, settings = cli.store(args), cli.settings(args)
    configuration = _configuration(store)
    homelab = _read(args, store, configuration)
    _check_names(args, homelab)
    say = print if args.dry_run else cli.teller(args, verbose=True)

    def lived() -> bool:
        return bool(index.names(store.world.machines) or store.networks())

    with notes.locked(store) if not args.dry_run else contextlib.nullcontext():
        noted = notes.read(store)
        left = pruning.left_over(store, noted, homelab)
        gone = ", ".join([*(machine.name for machine in left.machines), *(f"VLAN {name}" for name in left.vlans)])
        if args.prune and left.machines and not homelab.machines:
            raise UsageError(f"there is no machine in {args.file}: --prune would destroy {gone}",
                             hint="vmstop -d NAME ... destroys machines")
        if args.prune and left.machines and not args.dry_run:
            cli.confirmed(f"Destroy {gone}, with {'their disks' if len(left.machines) > 1 else 'its disk'}?",
                          yes=args.yes)
        if gone and not args.prune and not args.names:
            cli.teller(args)(f"no longer in the file: {gone} (--prune destroys)")
        with wiring.founded(store.world, dry_run=args.dry_run, say=say, kept=lived) as host:
            work = Bringing(
                site=Site(store=store, settings=settings, host=host, configuration=configuration),
                homelab=homelab, noted=noted,
                going=[machine.name for machine in left.machines] if args.prune else (),
                voice=_voice(args, store, host), wishes=Wishes(
                    names=args.names or None, restart=args.restart, cold=args.cold, start=not args.no_start,
                    configure=not args.no_configure, dry_run=args.dry_run))
            if args.prune:
                pruning.machines(work, left)
                pruning.vlans(work, left, unused=True)
            work.run()
            if args.prune:
                pruning.vlans(work, left, unused=False)
    if not args.dry_run:
        _print(args, work.outcomes)
    return _told(args, work, left)


def _read(args: argparse.Namespace, store: Store, configuration: HostConfiguration | None) -> Homelab:
    """Raises SpecError with all mistakes; warnings and notes are told."""
    earlier = pruning.left_over(store, notes.read(store), Homelab()).paths()
    around = site.surroundings(store, cli.settings(args), configuration, earlier=earlier, prune=args.prune,
                               configure=not args.no_configure)
    made = site.small if args.small else lambda homelab: homelab
    if args.file == "-":
        reading = homelab_format.parse(sys.stdin.buffer.read(), "stdin.yaml", around, site=store.site(), made=made)
    else:
        reading = homelab_format.read(args.file, around, site=store.site(), made=made)
    homelab = notes.anchored(reading.demand(), os.path.dirname(os.path.abspath(args.file)))
    for complaint in reading.complaints:
        if complaint.severity is not Severity.error and not args.quiet:
            print(complaint, file=sys.stderr)
    return homelab


def _configuration(store: Store) -> HostConfiguration | None:
    """What this host offers, by tags; None where nobody said. Raises SpecError."""
    from cloudme.formats import definitions

    if (file := definitions.host_file(os.path.dirname(store.world.definitions))) is None:
        return None
    found = definitions.read(file, "", run=layout.machina_run())
    if found.complaints:
        raise SpecError([str(complaint) for complaint in found.complaints])
    return found.host


def _check_names(args: argparse.Namespace, homelab: Homelab) -> None:
    if args.names and args.prune:
        raise UsageError("--prune is of the whole file, and names are some of it")
    known = {one.name for one in planned.planned(homelab)} | set(homelab.machines)
    for name in args.names:
        if name not in known:
            raise NotFound(f"no machine '{name}' in {args.file}", hint=f"there is: {', '.join(homelab.machines)}")


def _voice(args: argparse.Namespace, store: Store, host: Host) -> Voice:
    def keys() -> tuple[str, str]:
        folder = os.path.expanduser("~/.ssh")
        path = args.pubkey_path or next((found for name in KEYS if os.path.exists(found := os.path.join(folder, name))),
                                        None)
        if path is None:
            raise UsageError("a machine on an image wants a public key", hint="--pubkey-path FILE, or: ssh-keygen")
        return machines.public_key(path), machines.private_key(path)

    return Voice(transaction=lambda: cli.transaction(args, host), show=print, say=cli.teller(args),
                 diff=_diff(args), keys=keys,
                 slow=functools.cache(lambda: cli.tell_accelerator(args, host, cli.settings(args))),
                 proxy=lambda machines: launching.proxied(store, host, machines))


def _diff(args: argparse.Namespace) -> Callable[[str], None]:
    """JSON has stdout for itself."""
    return (lambda line: None) if not args.diff else cli.teller(args) if args.json else print


def _print(args: argparse.Namespace, outcomes: Sequence[Outcome]) -> None:
    if args.json:
        cli.print_json([{
            "name": one.planned.name, "address": one.record.address if one.record else None, "result": one.word,
            "did": one.did, "pending": [difference.key for difference in one.pending],
            "message": one.error.message if one.error else None} for one in outcomes])
    else:
        cli.print_table([[one.planned.name, (one.record and one.record.address) or "-", one.word] for one in outcomes],
                        ["name", "address", "result"])


def _told(args: argparse.Namespace, work: Bringing, left: Left) -> int:
    """Say on stderr what went wrong, and what is left to do."""
    say, status = _complain, 0
    for name, error in left.failed.items():
        status = status or error.exit_status
        say(f"{name} stays: {_words(error)}")
    for name, error in work.broken.items():
        status = status or error.exit_status
        say(f"network {name}: {_words(error)}")
    for one in work.outcomes:
        name = one.planned.name
        if one.waits_for:
            say(f"{name}: waits for {one.waits_for}, which failed")
        elif one.error and one.error not in work.broken.values():
            status = status or one.error.exit_status
            say(f"{name}: {_words(one.error)}")
        if one.pending:
            what = ", ".join(map(str, one.pending))
            cli.teller(args)(f"{name} needs a restart: {what} (cmapply {args.file} --restart {name})")
    return status


def _complain(line: str) -> None:
    """Errors are told with -q, too."""
    print(f"{os.path.basename(sys.argv[0])}: {cli.plain(line)}", file=sys.stderr, flush=True)


def _words(error: CloudMeError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")


def dump(args: argparse.Namespace) -> None:
    store = cli.store(args)
    host = wiring.visiting(store.world)
    here = Site(store=store, settings=cli.settings(args), host=host, configuration=_configuration(store))
    found = dumping.dumped(here, notes.read(store))
    for machine in store.machines():
        if machine.definition:
            cli.teller(args)(f"{machine.name} is defined, and left out: vmcat {machine.definition}")
        elif left := dumping.left_out(machine):
            cli.teller(args)(f"{machine.name}: the file does not say {', '.join(left)}")
    with contextlib.suppress(BrokenPipeError):
        if args.json:
            cli.print_json(homelab_format.plain(found))
        else:
            print(homelab_format.dump(found), end="")
