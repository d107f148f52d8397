"""What no value alone is wrong about: names of what is not there, machines in each other's way, more than the host has.

`told` are the paths of values that were wrong by themselves: what follows from those is not told again.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from cloudme.errors import SpecError, UsageError
from cloudme.model import limits
from cloudme.model.definitions import borrowed
from cloudme.model.definitions.nouns import HostConfiguration
from cloudme.model.homelab import intent, planned
from cloudme.model.homelab.nouns import Homelab, Remark, Severity, VlanMode
from cloudme.model.homelab.planned import Planned
from cloudme.model.machine import Board
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Network
from cloudme.model.share import SHARES_MAX
from cloudme.model.units import MIB, human


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the host has. None: nobody looked, and nothing is said of it.

    templates: their memory in MiB, by name.   default_mib: the memory of a machine that stands on none.
    networks:  those of `cmnet`, by name.      tags: those of the host configuration.
    idle:      those of them that are not started before a machine wants them.
    owners:    who has which address of them: network -> address -> name.
    earlier:   what cmapply made of an earlier file and may destroy, as 'machines.db', 'networks.vlans.lan'.
    configuration: that of the host, which says what its tags bring.
    exists:    whether there is a file or folder of this path; a relative one is from the file's folder.
    amiss:     why a file is none that this key may name, '' where it may be; likewise.
    """

    ram_mib: int | None = None
    templates: Mapping[str, int] | None = None
    default_mib: int = 1024
    images: Collection[str] | None = None
    networks: Mapping[str, Network] | None = None
    idle: Collection[str] = ()
    owners: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    earlier: Collection[str] = ()
    tags: Collection[str] | None = None
    configuration: HostConfiguration | None = None
    exists: Callable[[str], bool] | None = None
    amiss: Callable[[str, str], str] | None = None


NOTHING_KNOWN = Surroundings()
MACHINES_MAX = 1000
"""Of one host: as many ports as a bridge has (linux/net/bridge/br_private.h, BR_MAX_PORTS), less its own."""
CIRCLES_MAX = 10
"""So many are told."""


def every(homelab: Homelab, around: Surroundings = NOTHING_KNOWN, *, folder: str = "", site: str = "",
          told: Collection[str] = ()) -> Iterator[Remark]:
    """All that is to be said. folder: the file's own."""
    count = sum(declared.replicas or 1 for declared in homelab.machines.values())
    if count > MACHINES_MAX:
        yield Remark("machines", f"{count} machines are too many: {MACHINES_MAX} at most", of_key=True)
        return
    machines = planned.planned(homelab, site=site)
    yield from _vlans(homelab)
    yield from _overlaps(homelab, machines, around)
    yield from _origins(homelab, machines, around, told)
    yield from _places(homelab, machines, around, told)
    if around.tags is not None:
        yield from _tags(homelab, around.tags, around.configuration)
    yield from _kinds(homelab, machines, told)
    yield from _clashes(machines)
    yield from _addresses(homelab, machines, around)
    yield from _shares(homelab)
    yield from _hardware(machines)
    yield from _memory(homelab, machines, around)
    yield from _order(homelab, told)
    if around.exists:
        yield from _files(homelab, folder, around.exists, around.amiss)


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"no {what} '{name}'" + (f"; '{near[0]}' is one" if near else "")


def _said(told: Collection[str], path: str) -> bool:
    return any(other == path or other.startswith((f"{path}.", f"{path}[")) for other in told)


def _first_of_each(machines: Iterable[Planned]) -> Iterator[Planned]:
    seen = set()
    for machine in machines:
        if machine.entry not in seen:
            seen.add(machine.entry)
            yield machine


def _vlans(homelab: Homelab) -> Iterator[Remark]:
    vlans = homelab.networks.vlans
    ids: dict[int, str] = {}
    nets = {name: found for name in vlans if (found := planned.subnet(homelab, name))}
    before: list[Name] = []
    for name, vlan in vlans.items():
        path = f"networks.vlans.{name}"
        if (other := ids.setdefault(vlan.id, name)) != name:
            yield Remark(f"{path}.id", f"{vlan.id} is the number of '{other}', too")
        for number, reached in enumerate(vlan.reaches):
            if reached not in vlans:
                yield Remark(f"{path}.reaches[{number}]", _unknown("VLAN", reached, vlans))
        if not (own := nets.get(name)):
            continue
        if vlan.cidr and own.ip not in vlan.cidr:
            yield Remark(f"{path}.gateway", f"{own.ip} is not in {vlan.cidr}")
        elif own.network.prefixlen < 31 and own.ip in (own.network.network_address, own.network.broadcast_address):
            yield Remark(f"{path}.gateway", f"{own.ip} is an end of {own.network}, and no machine's address")
        for other in before:
            if nets[other].network.overlaps(own.network):
                yield Remark(path, f"{own.network} is also that of '{other}', at least in part", of_key=True)
        before.append(name)


def _overlaps(homelab: Homelab, machines: list[Planned], around: Surroundings) -> Iterator[Remark]:
    """VLANs in whose way networks of `cmnet` are; not those of root's, which are elsewhere.

    A warning, as of all that others than the file decide: it fails alone, and the others are there after a boot.
    """
    vlans, used = homelab.networks.vlans, {planned.network_name(machine.declared) for machine in machines}
    others = {name: network.address.network for name, network in (around.networks or {}).items()
              if name not in vlans and not network.shared and (name in used or name not in around.idle)}
    for name in vlans:
        own = planned.subnet(homelab, name)
        for other, theirs in others.items():
            if own and own.network.overlaps(theirs):
                yield Remark(f"networks.vlans.{name}", f"{own.network} overlaps with {theirs}, the network '{other}'"
                             + _going(around, f"networks.vlans.{other}"), Severity.warning, of_key=True)


def _going(around: Surroundings, path: str) -> str:
    return " (it is no longer in the file: --prune destroys it)" if path in around.earlier else ""


def _origins(
    homelab: Homelab, machines: list[Planned], around: Surroundings, told: Collection[str],
) -> Iterator[Remark]:
    """What disks stand on. A default is told once, where it stands."""
    known: dict[str, Collection[str] | None] = {"template": around.templates, "image": around.images}
    for key, there in known.items():
        for path, name in _values(homelab, key):
            if there is not None and name not in there:
                yield Remark(path, _unknown(key, name, there))
    for machine in _first_of_each(machines):
        own = f"machines.{machine.entry}"
        named = machine.declared.template or machine.declared.image or machine.declared.kernel
        if not named and not any(_said(told, f"{at}.{key}") for key in ("template", "image", "kernel")
                                 for at in (own, "hosts")):
            yield Remark(own, "template or image is wanted", of_key=True)


def _values(homelab: Homelab, key: str) -> Iterator[tuple[str, str]]:
    """(path, value) of all places where a key that has a default is set."""
    if value := getattr(homelab.hosts, key):
        yield f"hosts.{key}", value
    for entry, declared in homelab.machines.items():
        if value := getattr(declared, key):
            yield f"machines.{entry}.{key}", value


def _places(
    homelab: Homelab, machines: list[Planned], around: Surroundings, told: Collection[str],
) -> Iterator[Remark]:
    """VLANs and networks that are not there; links that are the host's."""
    vlans = homelab.networks.vlans
    for path, name in _values(homelab, "vlan"):
        if name not in vlans and not _said(told, f"networks.vlans.{name}"):
            yield Remark(path, _unknown("VLAN", name, vlans))
    for path, name in _values(homelab, "network"):
        if name in vlans:
            yield Remark(path, f"'{name}' is a VLAN: say vlan, not network")
        elif around.networks is not None and name not in {DEFAULT_NETWORK, *around.networks}:
            yield Remark(path, _unknown("network", name, around.networks))
    for machine in machines:
        if machine.tap_id in (homelab.networks.bridge, homelab.networks.uplink):
            yield Remark(f"machines.{machine.entry}.tap_id", f"{machine.tap_id} is the host's own")


def _kinds(homelab: Homelab, machines: list[Planned], told: Collection[str]) -> Iterator[Remark]:
    """What does not go together, once defaults are in."""
    if homelab.networks.vlan_mode is VlanMode.bridges:
        for key in ("bridge", "uplink"):
            if getattr(homelab.networks, key):
                yield Remark(f"networks.{key}", "with vlan_mode: bridges each VLAN has a bridge of its own, and no "
                             "uplink")
    for vlan in dict.fromkeys(machine.declared.vlan for machine in machines):
        if vlan in homelab.networks.vlans and planned.subnet(homelab, vlan or "") is None \
                and not _said(told, f"networks.vlans.{vlan}"):
            yield Remark(f"networks.vlans.{vlan}", "its network is not known: cidr, gateway, or the ip of a machine "
                         "says it", of_key=True)
    for machine in _first_of_each(machines):
        path, declared = f"machines.{machine.entry}", machine.declared
        if declared.kernel and not declared.image:
            yield Remark(f"{path}.kernel", "a machine that boots a kernel of its own stands on an image: image "
                         "is wanted")
        if machine.board is Board.microvm and not declared.kernel:
            yield Remark(f"{path}.machine", "a microvm boots a kernel, it has no firmware that finds a disk: "
                         "kernel is wanted")
        if homelab.machines[machine.entry].user and declared.template:
            yield Remark(f"{path}.user", "a clone has its template's user: user goes with image")


def _tags(homelab: Homelab, known: Collection[str], configuration: HostConfiguration | None) -> Iterator[Remark]:
    for entry, declared in homelab.machines.items():
        for number, tag in enumerate(declared.tags):
            if tag not in known:
                yield Remark(f"machines.{entry}.tags[{number}]",
                             _unknown("tag", tag, known) + " in the host configuration")
        try:
            if configuration:
                borrowed.of_tags([tag for tag in declared.tags if tag in known], configuration)
        except SpecError as error:
            for line in error.message.splitlines():
                yield Remark(f"machines.{entry}.tags", line)


ALONE: dict[str, Callable[[Planned], Iterable[object]]] = {
    "ip": lambda machine: [machine.declared.ip],
    "mac": lambda machine: [machine.mac],
    "vsock_cid": lambda machine: [machine.declared.vsock_cid],
    "tap_id": lambda machine: [machine.tap_id],
    "hostname": lambda machine: [machine.hostname],
    "gpu": lambda machine: machine.declared.gpu,
    "devices": lambda machine: machine.declared.devices,
}
"""Key -> what of it no two machines may have. GPUs and other devices are of one kind, and so told together."""


def _clashes(machines: list[Planned]) -> Iterator[Remark]:
    owners: dict[tuple[str, object], Planned] = {}
    for machine in machines:
        path = f"machines.{machine.entry}"
        if (owner := owners.setdefault(("", machine.name), machine)) is not machine:
            own = machine.entry == machine.name
            yield Remark(path, f"'{machine.name}' is one of the replicas of '{owner.entry}'" if own else
                         f"its replica '{machine.name}' has the name of another machine", of_key=True)
            continue
        for key, values in ALONE.items():
            kind = "devices" if key == "gpu" else key
            for value in values(machine):
                owner = owners.setdefault((kind, value), machine)
                if value is not None and owner.entry != machine.entry:
                    yield Remark(f"{path}.{key}", f"{value} is that of '{owner.name}', too")


def _addresses(homelab: Homelab, machines: list[Planned], around: Surroundings) -> Iterator[Remark]:
    """Addresses that no machine, or not this one, can have; of replicas the first such."""
    mine = {machine.name for machine in machines}
    for entry, group in itertools.groupby(machines, lambda machine: machine.entry):
        declared = homelab.machines[entry]
        for number, one in enumerate(group if declared.ip else ()):
            unfit = _unfit(homelab, one, around)
            if what := unfit or _taken(one, around, mine):
                severity = Severity.error if unfit and one.declared.vlan else Severity.warning
                yield Remark(f"machines.{entry}.ip", what + (f" (replica {number})" if declared.replicas else ""),
                             severity)
                break


def _unfit(homelab: Homelab, machine: Planned, around: Surroundings) -> str:
    """Why no machine can have this address on its network."""
    address, vlan, name = machine.declared.ip, machine.declared.vlan, planned.network_name(machine.declared)
    network = (around.networks or {}).get(name)
    own = planned.subnet(homelab, vlan) if vlan else network.address if network else None
    if not own:
        return ""
    if address is None or address not in own.network:
        return (f"{address or 'what comes after 255.255.255.255'} is not in {own.network}, the "
                f"{'VLAN' if vlan else 'network'} '{name}'")
    if own.network.prefixlen < 31 and address in (own.network.network_address, own.network.broadcast_address):
        return f"{address} is an end of {own.network}, and no machine's address"
    return f"{address} is the gateway of '{name}'" if address == own.ip else ""


def _taken(machine: Planned, around: Surroundings, mine: Collection[str]) -> str:
    """Who has its address, and is none of `mine`."""
    owner = around.owners.get(planned.network_name(machine.declared), {}).get(str(machine.declared.ip), "")
    if not owner or owner in mine:
        return ""
    return f"{machine.declared.ip} is the address of '{owner}'{_going(around, f'machines.{owner}')}"


def _shares(homelab: Homelab) -> Iterator[Remark]:
    """Tags and mount points are once on a machine."""
    for machine in _first_of_each(planned.planned(homelab)):
        seen: set[tuple[str, str | None]] = set()
        for number, share in enumerate(machine.declared.shares):
            path = f"machines.{machine.entry}.shares[{number}]"
            for key, value in (("mount_point", share.mount_point), ("tag", share.tag)):
                if (key, value) in seen:
                    yield Remark(f"{path}.{key}", f"two shares have '{value}'")
                    break
                seen.add((key, value))
            try:
                intent.shared(share)
            except UsageError as error:
                yield Remark(path, error.message)
        if len(machine.declared.shares) > SHARES_MAX:
            yield Remark(f"machines.{machine.entry}.shares", f"{SHARES_MAX} shares at most")


def _hardware(machines: list[Planned]) -> Iterator[Remark]:
    for machine in _first_of_each(machines):
        path, declared = f"machines.{machine.entry}", machine.declared
        for key in ("gpu", "devices"):
            if machine.board is Board.microvm and getattr(declared, key):
                yield Remark(f"{path}.{key}", "a machine of type microvm takes no PCI devices: machine: q35 does")
        if planned.hangs(machine.board, declared.mem):
            yield Remark(f"{path}.mem", f"a machine of type microvm hangs with {declared.mem} MiB: "
                         f"it gets {machine.mem}", Severity.note)
        try:
            if machine.mem:
                limits.check(declared.limits, machine.mem)
        except UsageError as error:
            yield Remark(f"{path}.limits.memory", f"{error.message}: {error.hint}")


def _memory(homelab: Homelab, machines: list[Planned], around: Surroundings) -> Iterator[Remark]:
    if not around.ram_mib:
        return
    templates = around.templates or {}
    total = sum(machine.mem or templates.get(machine.declared.template or "", around.default_mib)
                for machine in machines)
    if total <= around.ram_mib:
        return
    ratio = homelab.hosts.memory_ratio
    what = f"all machines have {human(total * MIB)} of memory, the host has {human(around.ram_mib * MIB)}"
    if total > around.ram_mib * ratio:
        yield Remark("machines", f"{what}: that is more than {ratio:g} times as much (memory_ratio)", of_key=True)
    else:
        yield Remark("machines", what, Severity.warning, of_key=True)


def _order(homelab: Homelab, told: Collection[str]) -> Iterator[Remark]:
    known = {name for entry, declared in homelab.machines.items() for name in planned.names(entry, declared)}
    known |= set(homelab.machines)
    for entry, declared in homelab.machines.items():
        for number, name in enumerate(declared.depends_on):
            if name not in known and not _said(told, f"machines.{name}"):
                yield Remark(f"machines.{entry}.depends_on[{number}]", _unknown("machine", name, known))
    for circle in itertools.islice(planned.circles(homelab), CIRCLES_MAX):
        yield Remark(f"machines.{circle[0]}.depends_on", f"it waits for itself: {' -> '.join(circle)}")


FILES = ("kernel", "initrd", "playbook", "user_data")


def _files(
    homelab: Homelab, folder: str, exists: Callable[[str], bool], amiss: Callable[[str, str], str] | None,
) -> Iterator[Remark]:
    """Those that are missing, or none of their kind."""
    named = [(f"hosts.{key}", getattr(homelab.hosts, key)) for key in FILES if hasattr(homelab.hosts, key)]
    for entry, declared in homelab.machines.items():
        named += [(f"machines.{entry}.{key}", getattr(declared, key)) for key in FILES]
        for number, share in enumerate(declared.shares):
            if not share.made and not exists(share.source):
                yield Remark(f"machines.{entry}.shares[{number}].source",
                             f"there is no {share.source}; with owner or mode it would be made")
    for path, value in named:
        file = os.path.join(folder, value or "")
        if value and not exists(file):
            yield Remark(path, f"there is no {file}")
        elif value and amiss and (what := amiss(path.rpartition(".")[2], file)):
            yield Remark(path, what)
