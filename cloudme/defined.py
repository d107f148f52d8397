"""Machines that are defined, as machines of a store: published while systemd may run them, withdrawn when it may not.

The record says whose definition it is. The machine's lock, and its sockets, are links into the folder that systemd
makes for it, which belongs to its QEMU's user: who follows them takes care (`index.opened`, `sockets.reached`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_interface

from cloudme import claim, index, layout
from cloudme.errors import AlreadyExists, Busy, NotFound, UsageError
from cloudme.model import identity
from cloudme.model.definitions.nouns import HostConfiguration, Merged
from cloudme.model.machine import MAX_VCPUS, MIN_RAM_MIB, Access, Machine, Nic, Shape
from cloudme.model.names import DEFAULT_GROUP, DEFAULT_TYPE, Name
from cloudme.model.network import Network, slaac
from cloudme.model.ports import Host
from cloudme.store import Store, reported, take_lock

USER = "root"


def machine_of(merged: Merged, configuration: HostConfiguration, store: Store) -> Machine:
    """What a store has of a machine that is defined: no disks, and a card for each connection to a network of ours.

    One of ours is one on the same bridge. Of other connections only the address of the first that has one is kept.
    """
    nics = _nics(merged, configuration, store)
    others = [one.ip for one in merged.connections if one.ip and one.mac not in [nic.mac for nic in nics]]
    attributes = merged.attributes
    vcpus = math.prod(count or 1 for count in (attributes.sockets, attributes.cores, attributes.threads))
    return Machine(
        name=merged.definition.name.plain, uuid=merged.uuid, definition=merged.definition.name,
        group=Name(attributes.member_of or DEFAULT_GROUP), type=Name(attributes.type or DEFAULT_TYPE), template=None,
        shape=Shape(vcpus=min(vcpus, MAX_VCPUS), ram_mib=max(attributes.ram_mib, MIN_RAM_MIB)), disks=(),
        nics=tuple(nics), limits=attributes.limits,
        access=Access(user=attributes.user or USER, key_of=None, seeded=False, key_file=attributes.key_file or None),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        elsewhere=str(ip_interface(others[0]).ip) if others else None,
    )


def _nics(merged: Merged, configuration: HostConfiguration, store: Store) -> list[Nic]:
    """One in a network, at most: it has one name there."""
    ours = {network.bridge: network for network in store.networks()}
    found: dict[Name, Nic] = {}
    for connection in merged.connections:
        attachment = configuration.networks.get(connection.network)
        network = ours.get(attachment.device) if attachment else None
        if network and network.name not in found:
            given = ip_interface(connection.ip).ip if connection.ip else None
            found[network.name] = Nic(network=network.name, mac=connection.mac, address6=slaac(network, connection.mac),
                                      address=str(given) if given and given.version == 4 else None)
    return list(found.values())


def publish(
    host: Host, store: Store, machines: Sequence[Merged], configuration: HostConfiguration,
) -> list[Machine]:
    """Make machines that are defined ones of the store, or bring them up to date. Again: the same.

    A machine of ours with the id of one is adopted: it keeps all that it has, and from now on systemd runs it. In a
    network of ours a card has the address that the definition says, else one of ours, kept for it.
    Raises:  AlreadyExists (another machine has the name, or the address), Busy (a machine of ours runs), UsageError.
    """
    if store.world.realm:
        raise UsageError("what systemd runs is in the host's own network", hint="leave --realm out")
    with store.locked():
        by_uuid = {machine.uuid: machine for machine in store.machines()}
        olds = [_known(store, by_uuid, merged) for merged in machines]
        return [_publish(host, store, merged, configuration, old) for merged, old in zip(machines, olds, strict=True)]


def _publish(
    host: Host, store: Store, merged: Merged, configuration: HostConfiguration, old: Machine | None,
) -> Machine:
    if old and old.disks:
        new = dataclasses.replace(old, definition=merged.definition.name)
    else:
        new = _addressed(store, machine_of(merged, configuration, store), old)
    maker = -1 if old else store.claim(host, store.folder(new), layout.MACHINE_RECORD)
    try:
        _link(store, new)
        if not new.disks:
            _reserve(store, new, old.nics if old else ())
        if new != old:
            store.publish(new)
    finally:
        if maker >= 0:
            os.close(maker)
    return new


def _reserve(store: Store, machine: Machine, before: Sequence[Nic]) -> None:
    """Write the reservations that it lacks, and remove those in networks where it has no card any more."""
    for nic in machine.nics:
        there = os.path.exists(os.path.join(store.world.reservations(nic.network), machine.name))
        if nic.address and not (there and nic in before):
            store.reserve(_network(store, nic), machine.name, nic.mac, nic.address)
    for network in {nic.network for nic in before} - {nic.network for nic in machine.nics}:
        store.release(network, machine.name)


def check(store: Store, machines: Sequence[Merged]) -> None:
    """Raises Busy where a machine of ours with the id of one runs, and not by systemd."""
    wanted = {merged.uuid for merged in machines}
    for machine in store.machines():
        if machine.uuid in wanted:
            _check_stopped(store, machine)


def withdraw(store: Store, definition: str) -> Machine | None:
    """Undo `publish`, by the name of a definition; None where there is nothing to undo. Raises Busy where it runs."""
    with store.locked():
        machine = find(store, definition)
        if machine is None:
            return None
        if store.is_running(machine):
            raise Busy(f"'{machine.name}' runs", hint=f"vmstop {machine.name}")
        folder, run = store.folder(machine), store.run_folder(machine)
        if not machine.disks:
            for nic in machine.nics:
                store.release(nic.network, machine.name)
            store.remove(folder, layout.MACHINE_RECORD)
            shutil.rmtree(run, ignore_errors=True)
            return machine
        for path in (layout.lock(folder), *(os.path.join(run, role) for role in layout.machina_sockets(definition))):
            with reported(path), contextlib.suppress(FileNotFoundError):
                if os.path.islink(path):
                    os.unlink(path)
        store.publish(dataclasses.replace(machine, definition=None))
        return machine


def find(store: Store, definition: str) -> Machine | None:
    """The machine that is defined by a definition, where it is published."""
    return next((machine for machine in store.machines() if machine.definition == definition), None)


def check_apart(machines: Iterable[Machine]) -> None:
    """Raises Busy where one that is not defined runs all the same, by a definition that has its id (vmrun)."""
    known = {identity.uid(machine.uuid): machine for machine in machines if not machine.definition}
    for name in index.names(layout.machina_run()):
        with contextlib.suppress(FileNotFoundError):
            owner = os.stat(os.path.join(layout.machina_run(), name)).st_uid
            if owner in known and index.held(layout.machina_lock(name)):
                raise Busy(f"'{known[owner].name}' runs, as the definition '{name}' has it",
                           hint="Ctrl-C where vmrun runs it")


def refuse(machine: Machine, what: str, hint: str) -> None:
    """Raises UsageError where a machine is defined; in `hint`, NAME is its definition."""
    if machine.definition:
        raise UsageError(f"'{machine.name}' is defined: {what}", hint=hint.replace("NAME", machine.definition))


def _known(store: Store, by_uuid: Mapping[str, Machine], merged: Merged) -> Machine | None:
    """The machine of the store that this one is."""
    definition, name = merged.definition.name, merged.definition.name.plain
    claim.check_name(name)
    if machine := by_uuid.get(merged.uuid):
        if machine.definition not in (None, definition):
            raise AlreadyExists(f"definition '{machine.definition}' has the id of '{definition}'",
                                hint=f"sudo vmunit remove {machine.definition}")
        _check_stopped(store, machine)
        return machine
    with contextlib.suppress(NotFound):
        other = store.machine(name)
        if other.definition == definition:
            raise AlreadyExists(f"definition '{definition}' had another id before: the machine '{name}' has that",
                                hint=f"sudo vmunit remove {definition}")
        what = f"that of definition '{other.definition}'" if other.definition else "with another id"
        raise AlreadyExists(f"there is a machine '{name}' already, {what}", hint="vmrunning -a lists them")
    return None


def _check_stopped(store: Store, machine: Machine) -> None:
    if not machine.definition and store.is_running(machine):
        raise Busy(f"'{machine.name}' runs, and not by systemd", hint=f"vmstop {machine.name}")


def _addressed(store: Store, machine: Machine, old: Machine | None) -> Machine:
    """With the addresses that its cards have in our networks, and what of its record is not its definition's."""
    kept = {(nic.network, nic.mac): nic.address for nic in old.nics} if old else {}
    nics = []
    for nic in machine.nics:
        network = _network(store, nic)
        before = kept.get((nic.network, nic.mac))
        if nic.address and nic.address != before:
            claim.check_records(store, network, [nic.address], own=machine.name)
        if not nic.address and not network.external:
            nic = dataclasses.replace(nic, address=before or claim.addresses(store, network, 1)[0])
        nics.append(nic)
    machine = dataclasses.replace(machine, nics=tuple(nics))
    return dataclasses.replace(machine, created=old.created, forwards=old.forwards) if old else machine


def _network(store: Store, nic: Nic) -> Network:
    found = store.network(nic.network)
    assert found, "it was found by its record"
    return found


def _link(store: Store, machine: Machine) -> None:
    """Lead to where systemd has the machine. The run folder is gone after a reboot."""
    assert machine.definition
    folder, run = store.folder(machine), store.run_folder(machine)
    lock = layout.lock(folder)
    with reported(folder):
        mine = -1 if os.path.islink(lock) else take_lock(lock)  # nobody is about to start it
        _replace(lock, layout.machina_lock(machine.definition))
        if mine >= 0:
            os.close(mine)
    with reported(run):
        os.makedirs(run, 0o700, exist_ok=True)
        for role, path in layout.machina_sockets(machine.definition).items():
            _replace(os.path.join(run, role), path)


def _replace(link: str, target: str) -> None:
    """Make a link, in place of whatever is there."""
    if os.path.islink(link) and os.readlink(link) == target:
        return
    temporary = f"{link}.{os.getpid()}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, link)
