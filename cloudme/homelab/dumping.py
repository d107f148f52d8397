"""The file that says what is there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address

from cloudme import seed
from cloudme.errors import CloudMeError
from cloudme.homelab.notes import Notes, with_paths
from cloudme.homelab.site import TRUNK, Site
from cloudme.model.homelab import nouns, planned
from cloudme.model.homelab.nouns import Declared, Homelab, PortRange, Vlan, VlanMode
from cloudme.model.homelab.planned import Planned
from cloudme.model.machine import INITRD, KERNEL, Board, Machine
from cloudme.model.names import DEFAULT_TYPE, ImageName, Name
from cloudme.model.network import DEFAULT_NETWORK, Network


def dumped(site: Site, noted: Notes) -> Homelab:
    """What the notes say of machines that are still so, and what records say of the others. Definitions are left out.

    Raises:  StoreError.
    """
    machines = {machine.name: machine for machine in site.store.machines() if not machine.definition}
    entries: dict[Name, Declared] = {}
    told: set[Name] = set()
    plans = planned.planned(noted.homelab, site=site.store.site())
    for entry, declared in noted.homelab.machines.items():
        mine = [one for one in plans if one.entry == entry]
        if all(one.name in machines and _is_so(site, machines[one.name], one) for one in mine):
            entries[entry] = declared
            told |= {one.name for one in mine}
    before = {one.name: one for one in plans}
    others = [machine for name, machine in machines.items() if name not in told]
    hosts = noted.homelab.hosts
    if others:  # defaults would be theirs, too
        entries = {entry: planned.with_defaults(declared, hosts) for entry, declared in entries.items()}
        hosts = nouns.Defaults(memory_ratio=hosts.memory_ratio)
    vlans = _vlans(site, noted)
    for machine in others:
        entries[machine.name] = _declared(site, machine, before.get(machine.name), set(vlans))
    order = dict.fromkeys([*noted.homelab.machines, *before, *sorted(entries)])
    found = {name: entries[name] for name in order if name in entries}
    return Homelab(networks=_networks(site, noted, vlans), hosts=with_paths(hosts, _near), machines={
        name: dataclasses.replace(with_paths(declared, _near), depends_on=_known(declared, found, noted.homelab))
        for name, declared in found.items()})


def left_out(machine: Machine) -> list[str]:
    """What a machine has that the file cannot say."""
    return [what for what, there in (
        ("more cards", len(machine.nics) > 1), ("more disks", len(machine.disks) > 1),
        ("ports of the host that lead to it (vmexpose)", machine.forwards), ("a display's port", machine.vnc_port),
        ("a CD", machine.cdrom), ("that none of its ports is open", machine.ports == ())) if there]


def _is_so(site: Site, machine: Machine, one: Planned) -> bool:
    return _holds(lambda: not site.compared(machine, one)[1])


def _holds(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except CloudMeError:  # a file is gone, or another one
        return False


def _near(path: str) -> str:
    """From the current folder, where it is below that."""
    return os.path.relpath(path) if path.startswith(os.path.join(os.getcwd(), "")) else path


def _known(declared: Declared, found: Mapping[Name, Declared], noted: Homelab) -> tuple[Name, ...]:
    """What it depends on, of what there is; of replicas that are told one by one, each."""
    names = {name for entry, one in found.items() for name in (entry, *planned.names(entry, one))}
    more = {entry: planned.names(entry, one) for entry, one in noted.machines.items()}
    wanted = [name for word in declared.depends_on for name in ([word] if word in names else more.get(word, []))]
    return tuple(dict.fromkeys(name for name in wanted if name in names))


def _declared(site: Site, machine: Machine, before: Planned | None, vlans: set[Name]) -> Declared:
    """before: what was noted of it; what its record does not say is as it was."""
    declared = before.declared if before else Declared(autostart=None if site.store.is_running(machine) else False)
    nic, files = machine.nics[0] if machine.nics else None, site.store.folder(machine)
    network = nic.network if nic else None
    own = seed.own(site.store, machine, seed.USER_DATA)
    if not before or not _holds(lambda: site.user_data(before) == own):
        declared = dataclasses.replace(declared, user_data=os.path.join(files, seed.USER_DATA) if own else None)
    kernel = machine.kernel and {KERNEL: os.path.join(files, KERNEL), INITRD: os.path.join(
        files, INITRD) if machine.kernel.initrd else None}
    if kernel and before and declared.kernel and _holds(lambda: not site.boots(machine, before)):
        kernel = {KERNEL: declared.kernel, INITRD: declared.initrd}
    return dataclasses.replace(
        declared, replicas=None, template=machine.template, image=ImageName(machine.image) if machine.image else None,
        kernel=kernel[KERNEL] if kernel else None, initrd=kernel[INITRD] if kernel else None,
        cmdline=machine.kernel.cmdline if machine.kernel else None,
        machine=Board(machine.board) if machine.board != Board.q35 else None,
        vcpu=machine.shape.vcpus, mem=machine.shape.ram_mib, vlan=network if network in vlans else None,
        network=network if network not in (*vlans, DEFAULT_NETWORK) else None,
        ip=IPv4Address(nic.address) if nic and nic.address else None, mac=nic.mac if nic else None,
        tap_id=nic.tap if nic and nic.tap != planned.tap(machine.name) else None, hostname=machine.hostname,
        vsock_cid=machine.vsock_cid or (declared.vsock_cid if not site.vsock() else None),
        ports={port.name: PortRange(port.first, port.last, port.protocol) for port in machine.ports or ()},
        shares=tuple(nouns.Share(source=share.source, mount_point=share.mount_point, tag=share.tag,
                                 readonly=share.readonly, owner=share.owner, mode=share.mode)
                     for share in machine.shares),
        gpu=tuple(one for one in declared.gpu if one in machine.devices),
        devices=tuple(one for one in machine.devices
                      if one not in (*declared.gpu, *site.brought(declared).devices)),
        group=None if machine.group == planned.GROUP else Name(machine.group),
        type=None if machine.type == DEFAULT_TYPE else machine.type,
        user=machine.access.user if machine.image else None, limits=machine.limits, isolate=machine.isolate,
        net_rate=machine.net_rate)


def _vlans(site: Site, noted: Notes) -> dict[Name, Vlan]:
    """Those that the notes say and that are there, or that were never made since nobody uses them; and networks that
    are a bridge's VLANs."""
    there = {network.name: network for network in site.store.networks()}
    found = {name: vlan for name, vlan in noted.homelab.networks.vlans.items() if (
        _is(there[name], noted.homelab, name) if name in there else planned.subnet(noted.homelab, name) is None)}
    for name, network in there.items():
        if network.vlan and name not in found:
            found[name] = Vlan(id=network.vlan, cidr=network.address.network, gateway=network.address.ip,
                               dns=network.dns, reaches=network.reaches or ())
    return {name: dataclasses.replace(vlan, reaches=tuple(_in(found, vlan.reaches))) for name, vlan in found.items()}


def _in(found: Mapping[Name, Vlan], names: Iterable[Name]) -> list[Name]:
    return [name for name in names if name in found]


def _is(network: Network, homelab: Homelab, name: Name) -> bool:
    vlan, address = homelab.networks.vlans[name], planned.subnet(homelab, name)
    return (address in (None, network.address) and network.vlan in (None, vlan.id) and network.reaches == vlan.reaches
            and network.dns == (vlan.dns or homelab.networks.dns))


def _networks(site: Site, noted: Notes, vlans: dict[Name, Vlan]) -> nouns.Networks:
    there = {network.name: network for network in site.store.networks()}
    trunks = [there[name] for name in vlans if name in there and there[name].vlan]
    own = noted.homelab.networks
    mode = VlanMode.filtering if trunks else VlanMode.bridges
    made = any(name in there for name in vlans)
    if all(name in own.vlans for name in vlans) and (own.vlan_mode is mode or not made):
        return dataclasses.replace(own, vlans=vlans)
    bridge = trunks[0].bridge if trunks and trunks[0].bridge != TRUNK else None
    said = {name: dataclasses.replace(vlan, dns=vlan.dns or own.dns, prefix=vlan.prefix or (
        None if vlan.cidr else own.prefix)) if name in own.vlans else vlan for name, vlan in vlans.items()}
    return nouns.Networks(vlan_mode=mode, vlans=said, bridge=bridge,
                          uplink=trunks[0].uplink if trunks else None)
