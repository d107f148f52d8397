"""What vminstantiate and vmfork do with their options: make the clones, restore those that can be, boot the others."""

from __future__ import annotations

import argparse
import dataclasses
import os

from cloudme import cli, warm
from cloudme.cli import requests, selection, sharing
from cloudme.errors import HostUnavailable, UsageError
from cloudme.model.machine import CloneRequest, Disk, Machine, disk_file
from cloudme.model.names import Name, numbered
from cloudme.operations import clones, forks, instant, networks, power


def instantiate(args: argparse.Namespace) -> list[Machine] | None:
    """Returns the machines, in the order of the requests; None after a dry run."""
    store, settings = cli.store(args), cli.settings(args)
    wanted = requests.read(args, store)
    host = cli.host(args)
    on = {name: store.network_of(settings, name) for request in wanted for name in request.networks}
    accel = "" if args.no_start else power.accelerator(host, settings)
    reasons: dict[str, str] = {}

    def based(machine: Machine) -> Machine:
        assert machine.template
        if args.cold or args.no_start or not (args.instant or warm.manifest(store.world.warm(machine.template))):
            return machine
        machine, why = warm.based(host, store, machine, accel)
        if why and args.instant:
            raise HostUnavailable(f"the RAM image of template '{machine.template}' cannot be used: {why}",
                                  hint=f"vmwarm {machine.template}")
        if why:
            reasons[str(machine.template)] = why
        return machine

    if not args.no_start:
        power.check(host, store, [], on.values())
        cli.tell_accelerator(args, host, settings)
    sharing.tell_kind(args, host, [share for request in wanted for share in request.shares])
    with networks.announcing(host, store) as announce, cli.transaction(args, host) as transaction, clones.making(
            transaction, store, wanted, settings, based) as machines:
        for template, why in reasons.items():
            cli.teller(args)(f"clones of {template} boot, its RAM image cannot be used: {why}")
        if transaction.dry_run:
            return None
        announce(machines)
        if not args.no_start:
            instant.start(transaction, store, [machine for machine in machines if machine.bases], settings, accel=accel)
            power.start(transaction, store, [machine for machine in machines if not machine.bases], settings)
    return machines


def fork(args: argparse.Namespace) -> list[Machine] | None:
    """Likewise, of a machine that runs."""
    store, settings = cli.store(args), cli.settings(args)
    machine = store.machine(selection.named(store, cli.named(args) or ""))
    request = _request(args, machine)
    host = cli.host(args)
    forks.check(host, store, machine)
    accel = power.accelerator(host, settings)
    moment = forks.Moment(store, machine, forks.name(store, machine), accel, cli.teller(args))

    def based(clone: Machine) -> Machine:
        base = os.path.relpath(moment.folder, store.world.data)
        disks = tuple(Disk(file=disk_file(index), size_bytes=disk.size_bytes)
                      for index, disk in enumerate(machine.disks))
        return dataclasses.replace(clone, shape=machine.shape, disks=disks, access=machine.access,
                                   bases=(*machine.bases, base))

    with networks.announcing(host, store) as announce, cli.transaction(args, host) as transaction:
        transaction.apply([moment])
        with clones.making(transaction, store, [request], settings, based) as machines:
            if transaction.dry_run:
                return None
            announce(machines)
            instant.start(transaction, store, machines, settings, accel=accel, old=machine.nics)
    return machines


def _request(args: argparse.Namespace, machine: Machine) -> CloneRequest:
    if args.count < 1:
        raise UsageError(f"{args.count} is no number of clones")
    if machine.template is None:
        raise HostUnavailable(f"'{machine.name}' stands on no template: it cannot be forked")
    prefix = Name(args.prefix or machine.name.rstrip("0123456789"), "prefix of names")
    numbered(prefix, args.count - 1)
    return CloneRequest(
        template=machine.template, count=args.count, networks=tuple(nic.network for nic in machine.nics),
        group=Name(args.group or machine.group, "name of a group"),
        type=Name(args.type or machine.type, "name of a type"), prefix=prefix, isolate=machine.isolate,
        net_rate=machine.net_rate, limits=machine.limits, ports=machine.ports)


def show(args: argparse.Namespace, machines: list[Machine] | None) -> None:
    """Print the names, one a line, or what is documented as JSON."""
    if machines is None:
        return
    if args.json:
        cli.print_json([{"name": m.name, "group": m.group, "type": m.type, "address": m.address} for m in machines])
    else:
        print("\n".join(machine.name for machine in machines))
