"""What vm --via does: the same on another host, by ssh."""

from __future__ import annotations

import argparse
import shlex
import sys

from cloudme import cli
from cloudme.errors import UsageError
from cloudme.model.ports import Run


def vm(args: argparse.Namespace, run: Run) -> int:
    """Calls vm on the host `args.via`; the status is that of ssh. Raises UsageError, MissingProgram."""
    name = cli.named(args)
    if args.via.startswith("-") or not args.via:
        raise UsageError(f"'{args.via}' is no host")
    if args.graphic or args.proxy:
        raise UsageError("--via is for sessions and commands", hint=f"ssh {args.via}, then vm there")
    if name is None and not sys.stdin.isatty():
        raise UsageError("a name is wanted", hint="see --help")
    given = [("--realm", args.realm), ("--group", args.group), ("--type", args.type), ("--accel", args.accel)]
    flags = ("tty", "no_start", "vsock", "quiet", "verbose", "dry_run")
    words = ["vm", *(word for option, value in given if value for word in (option, value)),
             *(f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag)), *([name] if name else [])]
    if args.command:
        words += ["--", " ".join(args.command)]
    terminal = ["-t"] if args.tty or (not args.command and sys.stdin.isatty()) else []
    run.become(["ssh", *terminal, "--", args.via, shlex.join(words)])
    return 0
