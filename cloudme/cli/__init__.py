"""What the programs share: parsing, output, wiring, and the one place that exits.

Nothing is imported here that costs: not `argparse` either, which costs more than all that `vmrunning` does. What does
the work is imported by the command's function when it runs.
"""

from __future__ import annotations

import os
import sys

from cloudme import errors, layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable
    from typing import Any

    from cloudme.cli.parser import Command as Command
    from cloudme.cli.parser import Parser as Parser
    from cloudme.model.hostconfig import Settings
    from cloudme.model.ports import Host
    from cloudme.model.steps import Transaction
    from cloudme.store import Store

INTERRUPTED = 128 + 2
TERMINATED = 128 + 15
"""128 + the signal's number, as a shell reports it (bash(1), EXIT STATUS)."""

if not TYPE_CHECKING:
    def __getattr__(name: str) -> type:
        """The parsers, when somebody asks for them (PEP 562)."""
        if name not in ("Parser", "Command"):
            raise AttributeError(name)
        from cloudme.cli import parser

        return getattr(parser, name)


def complete(action: argparse.Action, kind: str) -> None:
    """Say what an argument completes to: machines, templates, images, catalogue, definitions, groups, types, realms,
    files, folders."""
    action.completes = kind  # type: ignore[attr-defined]


def dry_run_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and change nothing")


def json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def accel_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--accel", choices=["auto", "kvm", "tcg"], help="how QEMU runs the guest (default: auto)")


def vlan_options(parser: Any) -> None:
    """Of cmnet."""
    parser.add_argument("--vlan", metavar="ID", type=int, help="create: this VLAN of the bridge, which others share")
    parser.add_argument("--uplink", metavar="CARD", help="create: the host's card on which the VLAN is tagged")
    complete(parser.add_argument("--reaches", metavar="NETWORK,...", help="create, start: to which other networks its "
                                 "machines open connections; none, all (default: none with --vlan, else all)"),
             "networks")


def wire_options(parser: Any) -> None:
    """What a machine may do on its networks. parser: or a group of its options."""
    parser.add_argument("--isolate", action="store_true", help="it reaches no neighbours, only the gateway and beyond")
    parser.add_argument("--net-rate", metavar="RATE", help="bits a second that a card sends, and gets, as 100M")
    parser.add_argument("--ports", metavar="LIST", help="ports that other networks and the host reach, and no others: "
                        "ssh=22,nodes=30000-32767,dns=53/udp; none; all (default: all)")


def board_options(parser: Any) -> None:
    """What a machine of its own boots, on what, what it may take and share. parser: a group of options."""
    parser.add_argument("--limit", metavar="LIST", help="as vminstantiate")
    parser.add_argument("--vsock-cid", metavar="CID", type=int, help="its number for vsock, from 3: see vm --vsock")
    parser.add_argument("--machine-type", choices=["q35", "microvm"], help="the board (default: q35)")
    complete(parser.add_argument("--kernel", metavar="FILE", help="boot this kernel"), "files")
    complete(parser.add_argument("--initrd", metavar="FILE", help="with this initial RAM disk"), "files")
    parser.add_argument("--cmdline", metavar="TEXT", help="and this command line (default: root=/dev/vda1 ro "
                        "console=ttyS0)")
    share_option(parser)
    device_option(parser)


def device_option(parser: Any) -> None:
    parser.add_argument("--device", metavar="ADDRESS", action="append",
                        help="a PCI device of the host's, whole, as 0000:c1:00.0; again for more (cmcheck --vfio)")


def share_option(parser: Any) -> None:
    complete(parser.add_argument("--share", metavar="SOURCE:MOUNT[:ro]", action="append",
                                 help="a folder of the host's at MOUNT; again for more"), "folders")


def group_option(parser: argparse.ArgumentParser, **more: Any) -> None:
    complete(parser.add_argument("-g", "--group", metavar="GROUP", **{"help": "the machines of this group", **more}),
             "groups")


def type_option(parser: argparse.ArgumentParser, **more: Any) -> None:
    complete(parser.add_argument("-t", "--type", metavar="TYPE", **{"help": "only those of this type", **more}),
             "types")


def name_argument(parser: argparse.ArgumentParser, kind: str, *, required: bool = True) -> None:
    """A name as a positional or, as in the seed, with -n: `named` reads it."""
    what = kind.removesuffix("s")
    complete(parser.add_argument("name", nargs="?", metavar=what.upper(), help=f"the name of the {what}"), kind)
    complete(parser.add_argument("-n", "--name-of", dest="named", metavar="NAME", help="the same as an option"), kind)
    parser.set_defaults(name_required=required)


def named(args: argparse.Namespace) -> str | None:
    """The name given by either way of `name_argument`. Raises UsageError where both or, if required, none is."""
    if args.name and args.named and args.name != args.named:
        raise errors.UsageError(f"two names: '{args.name}' and '{args.named}'")
    name: str | None = args.name or args.named
    if name is None and args.name_required:
        raise errors.UsageError("a name is wanted", hint="see --help")
    return name


def one_of(known: Iterable[str], text: str, what: str) -> str:
    """The one of `known` that `text` is, or unambiguously begins. Raises NotFound, UsageError where several do."""
    found = [name for name in known if name.startswith(text)]
    if text in found:
        return text
    if not found or not text:
        raise errors.NotFound(f"no {what} '{text}'", hint="vmrunning -a lists them")
    if len(found) > 1:
        raise errors.UsageError(f"'{text}' may be {', '.join(found)}")
    return found[0]


def world(args: argparse.Namespace) -> layout.World:
    """The world that options and environment choose. Raises UsageError for a realm that is no name."""
    found = layout.world(args.realm)
    if found.realm:
        from cloudme.model.names import Name

        Name(found.realm, "name of a realm")
    return found


def store(args: argparse.Namespace) -> Store:
    from cloudme.store import Store

    return Store(world(args))


def settings(args: argparse.Namespace) -> Settings:
    """The defaults of cloudme.toml, with --accel on top."""
    from cloudme.cli import wiring

    return wiring.settings(world(args), getattr(args, "accel", None))


def host(args: argparse.Namespace) -> Host:
    """The real host. From here on the process is in the realm's network namespace."""
    from cloudme.cli import wiring

    return wiring.host(world(args))


def host_outside(args: argparse.Namespace) -> Host:
    """The real host for what needs the host's own network, whatever the realm: packages come from elsewhere."""
    from cloudme.cli import wiring

    return wiring.staying(world(args))


def transaction(args: argparse.Namespace, host: Host) -> Transaction:
    """Where the command's steps are applied: said with -v and --dry-run, undone on failure."""
    from cloudme.model.steps import Transaction

    dry_run = getattr(args, "dry_run", False)
    return Transaction(host, print if dry_run else teller(args, verbose=True), dry_run)


def teller(args: argparse.Namespace, *, verbose: bool = False) -> Callable[[str], None]:
    """Returns the function that tells progress on stderr: nothing with -q, `verbose` lines only with -v."""
    if args.quiet or (verbose and not args.verbose):
        return lambda line: None
    return lambda line: print(f"{os.path.basename(sys.argv[0])}: {plain(line)}", file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """Lines that do nothing to a terminal: a QEMU in a guest's hands may have a say in what is told."""
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)


def tell_accelerator(args: argparse.Namespace, host: Host, settings: Settings) -> None:
    """Say once that machines will be slow, where nobody asked for that."""
    if settings.accel == "auto" and not host.qemu.kvm_usable():
        teller(args)("KVM cannot run stock kernels here: machines are emulated (TCG), about ten times slower")


def open_display(args: argparse.Namespace, socket: str) -> None:
    """Open the display that QEMU offers at `socket`. Raises HostUnavailable, saying what to type elsewhere."""
    from cloudme.cli import display
    from cloudme.host import run

    display.show(run.Programs(), socket)


def print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2))


def print_table(rows: Iterable[Iterable[str]], heads: Iterable[str]) -> None:
    """Columns, two blanks between; heads only on a terminal, so that a pipe gets results alone."""
    table = [list(row) for row in rows]
    if sys.stdout.isatty():
        table.insert(0, list(heads))
    widths = [max((len(cell) for cell in column), default=0) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def confirmed(question: str, *, yes: bool) -> None:
    """Ask on a terminal before something is lost. Raises UsageError where there is nobody to ask and no `yes`."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise errors.UsageError(f"{question} Nobody can be asked here", hint="-y says yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise errors.UsageError("not confirmed: nothing was changed")


def main(command: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser) -> int:
    """Run a command and return its exit status; every error becomes a line or two on stderr."""
    if "_ARGCOMPLETE" in os.environ:
        from cloudme.cli import completion

        completion.answer(parser)
    args = parser.parse_args()
    import signal

    def terminated(*_: object) -> None:
        raise errors.Terminated

    signal.signal(signal.SIGTERM, terminated)
    return run(parser.prog, command, args)


def run(prog: str, command: Callable[[Any], int | None], args: object) -> int:
    """Like `main` where the arguments are known already."""
    try:
        status = command(args) or 0
        sys.stdout.flush()
        return status
    except errors.SpecError as error:
        _complain(None, error.message, prog, error.hint)
        return error.exit_status
    except errors.CloudMeError as error:
        _complain(prog, error.message, prog, error.hint)
        return error.exit_status
    except KeyboardInterrupt:
        _complain(prog, "interrupted", prog, None)
        return INTERRUPTED
    except errors.Terminated:
        _complain(prog, "terminated", prog, None)
        return TERMINATED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _complain(prog, f"{error.filename or ''}: {error.strerror}".lstrip(": "), prog, None)
        import errno

        permission = error.errno in (errno.EACCES, errno.EPERM)
        return (errors.NotPermitted if permission else errors.StoreError).exit_status
    except Exception as error:
        if isinstance(error, ImportError) and (error.name or "cloudme").partition(".")[0] != "cloudme":
            _complain(prog, f"{sys.executable}: {error}", prog, "sudo make installs cloudMe with all that it needs; "
                      "a checkout runs by the python3 that is first in PATH")
            return errors.HostUnavailable.exit_status
        import traceback

        traceback.print_exc()
        _complain(prog, "this is a bug: please report the lines above", prog, None)
        return errors.CloudMeError.exit_status


def _complain(prefix: str | None, message: str, prog: str, hint: str | None) -> None:
    """`prefix: message`, and below it one line with what to do next."""
    text = "".join(f"{prefix}: {line}\n" if prefix else f"{line}\n" for line in plain(message).splitlines())
    sys.stderr.write(text + (f"{prog}: ({plain(hint)})\n" if hint else ""))


