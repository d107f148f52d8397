"""The file that says what is there."""

from __future__ import annotations

import dataclasses
import os
from ipaddress import IPv4Address
from typing import Any

from cloudme import seed
from cloudme.homelab.notes import Notes
from cloudme.homelab.site import TRUNK, Site
from cloudme.model.homelab import nouns, planned
from cloudme.model.homelab.nouns import Board, Declared, Homelab, PortRange, Vlan, VlanMode
from cloudme.model.homelab.planned import Planned
from cloudme.model.machine import INITRD, KERNEL, Machine
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
    own = dataclasses.replace(site, folder=noted.folder)
    for entry, declared in noted.homelab.machines.items():
        mine = [one for one in plans if one.entry == entry]
        if all(one.name in machines and not own.differences(machines[one.name], one) for one in mine):
            entries[entry] = _moved(declared, noted.folder)
            told |= {one.name for one in mine}
    before = {one.name: one for one in plans}
    others = [machine for name, machine in machines.items() if name not in told]
    hosts = dataclasses.replace(noted.homelab.hosts, **_moved_paths(noted.homelab.hosts, noted.folder))
    if others:  # defaults would be theirs, too
        entries = {entry: planned.with_defaults(declared, hosts) for entry, declared in entries.items()}
        hosts = nouns.Defaults(memory_ratio=hosts.memory_ratio)
    vlans = _vlans(site, noted)
    for machine in others:
        entries[machine.name] = _declared(site, machine, before.get(machine.name), noted.folder, set(vlans))
    order = list(dict.fromkeys([*noted.homelab.machines, *before, *sorted(entries)]))
    return Homelab(networks=_networks(site, noted, vlans), hosts=hosts,
                   machines={name: entries[name] for name in order if name in entries})


def left_out(machine: Machine) -> list[str]:
    """What a machine has that the file cannot say."""
    return [what for what, there in (
        ("more cards", len(machine.nics) > 1), ("more disks", len(machine.disks) > 1),
        ("ports of the host that lead to it (vmexpose)", machine.forwards), ("a display's port", machine.vnc_port),
        ("a CD", machine.cdrom)) if there]


def _moved(declared: Declared, folder: str) -> Declared:
    """With paths from the current folder."""
    return dataclasses.replace(declared, **_moved_paths(declared, folder))


def _moved_paths(given: Declared | nouns.Defaults, folder: str) -> dict[str, Any]:
    return {key: os.path.relpath(os.path.join(folder, path)) for key in ("kernel", "initrd", "playbook", "user_data")
            if (path := getattr(given, key, None)) and not os.path.isabs(path)}


def _declared(site: Site, machine: Machine, before: Planned | None, folder: str, vlans: set[Name]) -> Declared:
    """before: what was noted of it; what its record does not say is as it was."""
    declared = _moved(before.declared, folder) if before else Declared(
        autostart=None if site.store.is_running(machine) else False)
    nic, files = machine.nics[0] if machine.nics else None, site.store.folder(machine)
    network = nic.network if nic else None
    own = seed.own(site.store, machine, seed.USER_DATA)
    if own != (site.user_data(before) if before else ""):
        declared = dataclasses.replace(declared, user_data=os.path.join(files, seed.USER_DATA) if own else None)
    return dataclasses.replace(
        declared, replicas=None, template=machine.template, image=ImageName(machine.image) if machine.image else None,
        kernel=declared.kernel or os.path.join(files, KERNEL) if machine.kernel else None,
        initrd=declared.initrd or os.path.join(files, INITRD) if machine.kernel and machine.kernel.initrd else None,
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
    """Those that the notes say and that are there, and networks that are a bridge's VLANs."""
    there = {network.name: network for network in site.store.networks()}
    found = {name: vlan for name, vlan in noted.homelab.networks.vlans.items()
             if name in there and _is(there[name], noted.homelab, name)}
    for name, network in there.items():
        if network.vlan and name not in found:
            found[name] = Vlan(id=network.vlan, cidr=network.address.network, gateway=network.address.ip,
                               dns=network.dns, reaches=network.reaches or ())
    return found


def _is(network: Network, homelab: Homelab, name: Name) -> bool:
    vlan, address = homelab.networks.vlans[name], planned.subnet(homelab, name)
    return (address in (None, network.address) and network.vlan in (None, vlan.id) and network.reaches == vlan.reaches
            and network.dns == (vlan.dns or homelab.networks.dns))


def _networks(site: Site, noted: Notes, vlans: dict[Name, Vlan]) -> nouns.Networks:
    there = {network.name: network for network in site.store.networks()}
    trunks = [there[name] for name in vlans if name in there and there[name].vlan]
    mode = VlanMode.filtering if trunks else VlanMode.bridges
    before = noted.homelab.networks
    if all(name in before.vlans for name in vlans) and (not vlans or before.vlan_mode is mode):
        return dataclasses.replace(before, vlans=vlans)
    bridge = trunks[0].bridge if trunks and trunks[0].bridge != TRUNK else None
    return dataclasses.replace(before, vlan_mode=mode, vlans=vlans, bridge=bridge,
                               uplink=trunks[0].uplink if trunks else None)
