"""What vm does: start the machine if need be, wait for its ssh, open a session or its display."""

from __future__ import annotations

import argparse
import os
import secrets

from cloudme import cli, defined, layout
from cloudme.cli import sharing
from cloudme.errors import HostUnavailable, TimedOut
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.operations import power, readiness
from cloudme.qemu.hardware import VSOCK_DEVICE as VSOCK
from cloudme.store import Store

PASSWORD_LETTERS, PASSWORD_S = 8, 60
"""RFC 6143, 7.2.2: a password has eight characters; how long it opens the display of a machine that has a port."""


def shell(args: argparse.Namespace, host: Host, store: Store, machine: Machine) -> int:
    """Returns the exit status of the session or the command."""
    command = " ".join(args.command) or None
    target = store.target(machine, vsock=args.vsock)
    if args.vsock and not os.path.exists(VSOCK):
        raise HostUnavailable(f"this host has no {VSOCK}", hint="sudo modprobe vhost_vsock")
    started = _start(args, host, store, machine)
    if args.dry_run:
        return 0
    sharing.tell(args, store, machine)
    if not started:  # most often it is ready, and asking first would cost a second log-in
        try:
            return host.shell.interactive(target, command, tty=args.tty)
        except TimedOut:
            cli.teller(args)(f"'{machine.name}' runs, but is not ready yet")
    readiness.wait(host, store, [machine], "booted" if args.vsock else "ssh",
                   timeout_s=cli.settings(args).boot_timeout_s, say=cli.teller(args))
    return host.shell.interactive(target, command, tty=args.tty)


def display(args: argparse.Namespace, host: Host, store: Store, machine: Machine) -> int:
    defined.refuse(machine, "its display is SPICE's, if it has one", "vmcat NAME tells the port, for a viewer")
    _start(args, host, store, machine)
    if args.dry_run:
        return 0
    if machine.vnc_port is None:
        cli.open_display(args, layout.socket(store.run_folder(machine), "vnc"))
        return 0
    with host.qemu.monitor(layout.socket(store.run_folder(machine), "qmp.0")) as monitor:
        password = secrets.token_hex(PASSWORD_LETTERS // 2)
        monitor.execute("set_password", protocol="vnc", password=password)
        monitor.execute("expire_password", protocol="vnc", time=f"+{PASSWORD_S}")
    cli.teller(args)(f"the password for the next {PASSWORD_S} s: {password}")
    cli.open_display(args, f"127.0.0.1:{machine.vnc_port}")
    return 0


def _start(args: argparse.Namespace, host: Host, store: Store, machine: Machine) -> bool:
    """True where it did not run before."""
    if store.is_running(machine):
        return False
    settings = cli.settings(args)
    if not machine.definition:
        cli.tell_accelerator(args, host, settings)
    with cli.transaction(args, host) as transaction:
        return bool(power.start(transaction, store, [machine], settings))
