"""What a file is held against: the home, the host, the settings; and what of each machine it wants there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudme import seed
from cloudme.errors import NotFound
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
from cloudme.model.machine import Machine, Shape
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Network, whole_range
from cloudme.model.ports import Host
from cloudme.qemu import hardware
from cloudme.store import Store

TRUNK = "cm-vlans"
"""The bridge that keeps VLANs apart, where the file does not name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """folder: the file's own, from which its paths are. configuration: that of the host, which says what tags bring.
    coming: networks that are about to be made."""

    store: Store
    settings: Settings
    host: Host
    folder: str
    configuration: HostConfiguration | None = None
    coming: dict[Name, Network] = field(default_factory=dict)

    def path(self, written: str) -> str:
        return os.path.abspath(os.path.join(self.folder, written))

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
        name = declared.vlan or declared.network or DEFAULT_NETWORK
        return self.coming.get(name) or self.store.network_of(self.settings, name)

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
        return intent.shaped(machine, one, default=self.shape(one.declared), network=self.network(one.declared),
                             brought=self.brought(one.declared), vsock=self.vsock(), new=new)

    def user_data(self, one: Planned) -> str:
        """Its text, as it is in its file; '' for none. Raises NotFound."""
        if not one.declared.user_data:
            return ""
        return notes.content(self.path(one.declared.user_data)).decode(errors="replace")

    def differences(self, machine: Machine, one: Planned) -> list[Difference]:
        """Between a machine that is there and what the file wants."""
        found = intent.differences(machine, self.intended(machine, one, new=False))
        if self.user_data(one) != seed.own(self.store, machine, seed.USER_DATA):
            found.append(Difference("user_data", "another text", one.declared.user_data or "not set", Way.restart))
        return found


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


def surroundings(store: Store, settings: Settings, configuration: HostConfiguration | None) -> Surroundings:
    """What this host has, for the checks of a file."""
    return Surroundings(
        ram_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // units.MIB,
        templates={template.name: template.shape.ram_mib for template in store.templates()},
        default_mib=settings.ram_mib, images=[image.name for image in store.images()],
        networks=[network.name for network in store.networks()],
        tags=list(configuration.tags) if configuration else (), configuration=configuration, exists=os.path.exists)


def small(homelab: Homelab) -> Homelab:
    """The same on a small host: memory and CPUs as templates have them, no devices, and no tags, which bring them."""
    def less(declared: Declared) -> Declared:
        return dataclasses.replace(declared, mem=None, vcpu=None, gpu=(), devices=(), tags=())

    hosts: Defaults = dataclasses.replace(homelab.hosts, mem=None, vcpu=None)
    machines: Mapping[Name, Declared] = {name: less(one) for name, one in homelab.machines.items()}
    return dataclasses.replace(homelab, hosts=hosts, machines=machines)
