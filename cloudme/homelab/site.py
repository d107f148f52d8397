"""What a file is held against: the home, the host, the settings; and what of each machine it wants there."""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import functools
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cloudme import claim, seed, shared
from cloudme.errors import AlreadyExists, ConfigError, NotFound
from cloudme.formats import seeds
from cloudme.formats.homelab import files
from cloudme.homelab import notes
from cloudme.model import units
from cloudme.model.definitions import borrowed
from cloudme.model.definitions.borrowed import Brought
from cloudme.model.definitions.nouns import HostConfiguration
from cloudme.model.homelab import intent, planned
from cloudme.model.homelab.checks import Surroundings
from cloudme.model.homelab.intent import Difference, Way
from cloudme.model.homelab.nouns import Declared, Defaults, Homelab, VlanMode
from cloudme.model.homelab.planned import Planned
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import INITRD, KERNEL, Machine, Shape
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Network, slaac, whole_range
from cloudme.model.ports import Host
from cloudme.qemu import hardware
from cloudme.store import Store, everywhere

TRUNK = "cm-vlans"
"""The bridge that keeps VLANs apart, where the file does not name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """configuration: the host's, which says what tags bring. coming: networks that are about to be made. Paths of the
    file are absolute."""

    store: Store
    settings: Settings
    host: Host
    configuration: HostConfiguration | None = None
    coming: dict[Name, Network] = field(default_factory=dict)

    def vsock(self) -> bool:
        return self.host.files.mode(hardware.VSOCK_DEVICE) is not None

    def record(self, name: str) -> Machine | None:
        """The machine of this name, None where there is none."""
        try:
            return self.store.machine(name)
        except NotFound:
            return None

    def network(self, declared: Declared) -> Network:
        """That of a machine. Raises NotFound."""
        return self._network(planned.network_name(declared))

    def _network(self, name: Name) -> Network:
        return self.coming.get(name) or self.store.network_of(self.settings, name)

    def networks_of(self, old: Machine, new: Machine) -> dict[Name, Network]:
        """Those of all cards. Raises NotFound; one that an old card was in may have gone."""
        found = {nic.network: self._network(nic.network) for nic in new.nics}
        for nic in old.nics:
            with contextlib.suppress(NotFound):
                found.setdefault(nic.network, self._network(nic.network))
        return found

    def brought(self, declared: Declared) -> Brought:
        """What its tags bring. Raises SpecError."""
        return borrowed.of_tags(declared.tags, self.configuration) if self.configuration else Brought()

    def shape(self, declared: Declared) -> Shape:
        """What a machine has of which nothing is said."""
        found = Shape(vcpus=self.settings.vcpus, ram_mib=self.settings.ram_mib)
        if declared.template:
            found = self.store.template(declared.template).shape
        brought = self.brought(declared)
        return Shape(vcpus=brought.vcpus or found.vcpus, ram_mib=brought.ram_mib or found.ram_mib)

    def intended(self, machine: Machine, one: Planned, *, new: bool) -> Machine:
        network = self.network(one.declared)
        return _seated(intent.shaped(machine, one, default=self.shape(one.declared), network=network,
                                     brought=self.brought(one.declared), vsock=self.vsock(), new=new), network)

    def addressed(self, machine: Machine, one: Planned) -> Machine:
        """With an address where it needs one, and none is said. Raises Busy where none is free."""
        network = self.network(one.declared)
        if machine.nics[0].address is not None or network.external:
            return machine
        first = dataclasses.replace(machine.nics[0], address=claim.addresses(self.store, network, 1)[0])
        return _seated(dataclasses.replace(machine, nics=(first, *machine.nics[1:])), network)

    def user_data(self, one: Planned) -> str:
        """Its text, as it is in its file; '' for none. Raises NotFound, SpecError."""
        if not one.declared.user_data:
            return ""
        text = _user_data(one.declared.user_data)
        seeds.kind(text, one.declared.user_data)
        return text

    def compared(self, machine: Machine, one: Planned) -> tuple[Machine, list[Difference]]:
        """A machine that is there as the file wants it, and what differs."""
        wanted = self.intended(machine, one, new=False)
        found = intent.differences(machine, wanted)
        for name, path in self.boots(machine, one).items():
            way = Way.restart if machine.kernel else Way.anew
            found.append(Difference(name, "another file" if machine.kernel else "not set", path, way))
        if self.user_data(one) != seed.own(self.store, machine, seed.USER_DATA):
            found.append(Difference("user_data", "another text", one.declared.user_data or "not set", Way.restart))
        return wanted, found

    def boots(self, machine: Machine, one: Planned) -> dict[str, str]:
        """What the file wants it to boot, and that it does not: kernel, initrd -> the file. Raises NotFound."""
        found = {}
        for name, path in ((KERNEL, one.declared.kernel), (INITRD, one.declared.initrd)):
            if path and not (machine.kernel and _same(path, os.path.join(self.store.folder(machine), name))):
                found[name] = path
        return found

    def strangers(self, names: Collection[str]) -> dict[tuple[str, object], str]:
        """What machines have that are none of `names`, and no other may: (key of the file, value) -> whose it is."""
        found: dict[tuple[str, object], str] = {}
        for name, machine in everywhere(self.store.world, lambda machine: True).items():
            found["vsock_cid", machine.vsock_cid] = name  # the whole host's
        for machine in self.store.machines():
            for nic in machine.nics:
                found |= {("mac", nic.mac): machine.name, ("tap_id", nic.tap): machine.name}
        for network in self.store.networks():
            found |= {("address", (network.name, address)): owner
                      for address, owner in self.store.owners(network.name).items()}
        prefix = f"{self.store.world.realm}/" if self.store.world.realm else ""
        own = {*names, *(f"{prefix}{name}" for name in names)}
        return {key: name for key, name in found.items() if key[1] is not None and name not in own}


def check_apart(one: Planned, taken: Mapping[tuple[str, object], str]) -> None:
    """Raises AlreadyExists where a machine would have what is another one's. taken: see Site.strangers."""
    seat = planned.network_name(one.declared), str(one.declared.ip)
    for key, value in (("vsock_cid", one.declared.vsock_cid), ("mac", one.mac), ("tap_id", one.tap_id),
                       ("address", seat)):
        if owner := taken.get((key, value)):
            raise AlreadyExists(f"{one.declared.ip if value is seat else value} is the {key} of '{owner}'",
                                hint="choose another one")


def _user_data(path: str) -> str:
    text = notes.content(path).decode(errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as it is read from the machine's folder


def _amiss(key: str, path: str) -> str:
    """Why a file is none that this key may name; '' where it may be, or nobody can tell."""
    try:
        if key == "playbook":
            return files.playbook(notes.content(path), path)
        return files.user_data(_user_data(path), path) if key == "user_data" else ""
    except NotFound as error:
        return error.message


def _same(path: str, copy: str) -> bool:
    """Raises NotFound where nobody can read the first of them."""
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise NotFound(f"there is no {path}, or not for us")
    return os.path.isfile(copy) and filecmp.cmp(path, copy, shallow=False)


def _seated(machine: Machine, network: Network) -> Machine:
    """On a network of root's the card goes with the address."""
    first = machine.nics[0]
    mac = shared.allotment(network).get(first.address or "") if network.shared and not network.external else None
    return machine if mac is None else dataclasses.replace(
        machine, nics=(dataclasses.replace(first, mac=mac, address6=slaac(network, mac)), *machine.nics[1:]))


def networks(homelab: Homelab, store: Store, settings: Settings) -> dict[Name, Network]:
    """Those of the file's VLANs that are used, or whose addresses are known."""
    filtering = homelab.networks.vlan_mode is VlanMode.filtering
    found = {}
    for name, vlan in homelab.networks.vlans.items():
        address = planned.subnet(homelab, name)
        if address is None:
            continue
        first, last = whole_range(address)
        found[name] = Network(
            name=name, bridge=(homelab.networks.bridge or TRUNK) if filtering else planned.bridge(name),
            address=address, dhcp_first=first, dhcp_last=last, domain=f"{name}.{settings.domain}",
            resolve=settings.resolve, address6=store.site6(name), dns=vlan.dns or homelab.networks.dns,
            vlan=vlan.id if filtering else None, uplink=homelab.networks.uplink if filtering else None,
            reaches=vlan.reaches)
    return found


def surroundings(
    store: Store, settings: Settings, configuration: HostConfiguration | None, *, earlier: Collection[str],
    prune: bool, configure: bool,
) -> Surroundings:
    """What this host has, for the checks of a file.

    earlier: see Surroundings.  prune: what of that the file has not, goes.  configure: other files are looked into; not
    at boot, when one that is half written shall keep no machine down.
    """
    going = earlier if prune else ()
    known = [*(shared.networks() if store.world.rootless else []), *store.networks()]
    networks: dict[str, Network] = {
        network.name: network for network in known if f"networks.vlans.{network.name}" not in going}
    with contextlib.suppress(ConfigError):  # told where a machine is on it
        networks.setdefault(DEFAULT_NETWORK, store.designed(settings))
    return Surroundings(
        ram_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // units.MIB,
        templates={template.name: template.shape.ram_mib for template in store.templates()},
        default_mib=settings.ram_mib, images=[image.name for image in store.images()],
        networks=networks, idle=() if store.network() else (DEFAULT_NETWORK,), earlier=earlier,
        owners={network: {address: owner for address, owner in store.owners(network).items()
                          if f"machines.{owner}" not in going} for network in networks},
        tags=list(configuration.tags) if configuration else (), configuration=configuration, exists=os.path.exists,
        amiss=functools.cache(_amiss) if configure else None)


def small(homelab: Homelab) -> Homelab:
    """The same on a small host: memory and CPUs as templates have them, no devices, and no tags, which bring them."""
    def less(declared: Declared) -> Declared:
        return dataclasses.replace(declared, mem=None, vcpu=None, gpu=(), devices=(), tags=())

    hosts: Defaults = dataclasses.replace(homelab.hosts, mem=None, vcpu=None)
    machines: Mapping[Name, Declared] = {name: less(one) for name, one in homelab.machines.items()}
    return dataclasses.replace(homelab, hosts=hosts, machines=machines)
