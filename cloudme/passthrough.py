"""Whole PCI devices: taken from their driver, and given to the user of a machine by VFIO.

An IOMMU keeps groups of devices apart, not single ones: all that can do DMA in a group has to be VFIO's, or nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from cloudme import index, layout, notes, shared
from cloudme.errors import Busy, CloudMeError, HostUnavailable, NotPermitted
from cloudme.layout import World
from cloudme.model import identity
from cloudme.model.devices import VFIO, PciDevice
from cloudme.model.machine import Machine
from cloudme.model.network import Link
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.notes import Entry, Notes
from cloudme.qemu import launch
from cloudme.store import Store, everywhere

NO_IOMMU = "enable VT-d or AMD-Vi in the firmware's setup, and boot with intel_iommu=on or amd_iommu=on"


LOOK = "cmcheck --vfio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrower:
    """A machine, for messages, and as whom its QEMU runs. user: the name of that user, where there is one."""

    name: str
    uid: int
    gid: int
    notes: Notes
    user: str = ""


@dataclass(frozen=True, slots=True)
class LoadVfio:
    def describe(self) -> str:
        return f"modprobe {VFIO}"

    def do(self, host: Host) -> None:
        host.run(["modprobe", VFIO])

    def undo(self, host: Host) -> None:
        """A driver that has no device does nothing."""


@dataclass(frozen=True, slots=True)
class Bind:
    notes: Notes
    entry: Entry

    def describe(self) -> str:
        return f"give the device {self.entry['address']} to {VFIO} (it was {self.entry['driver'] or 'nobody'}'s)"

    def do(self, host: Host) -> None:
        self.notes.add("bound", self.entry)
        host.devices.bind(self.entry["address"], VFIO)

    def undo(self, host: Host) -> None:
        give_back(host, self.entry)
        self.notes.drop("bound", self.entry)


@dataclass(slots=True)
class Lend:
    """Let the machine's user open the group."""

    borrower: Borrower
    group: str
    entries: list[Entry] = field(default_factory=list)

    def describe(self) -> str:
        user = f"{self.borrower.user} ({self.borrower.uid})" if self.borrower.user else f"{self.borrower.uid}"
        return f"give /dev/vfio/{self.group} to the user {user}"

    def do(self, host: Host) -> None:
        owner = host.devices.owner(self.group)
        if owner is None:
            raise HostUnavailable(f"{VFIO} has not made /dev/vfio/{self.group}", hint="dmesg may say why")
        entry = {"group": self.group, "uid": self.borrower.uid, "before": list(owner)}
        self.entries.append(entry)
        self.borrower.notes.add("lent", entry)
        host.devices.give(self.group, self.borrower.uid, self.borrower.gid)

    def undo(self, host: Host) -> None:
        for entry in self.entries:
            take_back(host, entry)
            self.borrower.notes.drop("lent", entry)


def lending(host: Host, borrower: Borrower, group: str) -> Iterator[Lend]:
    """The step, where the group is not this machine's already."""
    owner = host.devices.owner(group)
    if owner is None or owner[0] != borrower.uid:
        yield Lend(borrower, group)


def plan(host: Host, borrower: Borrower, addresses: Sequence[str], links: Mapping[str, Link]) -> Iterator[Step]:
    """The steps that are left to do. Raises HostUnavailable, Busy: then nothing has been taken from anybody."""
    found = [_checked(host, borrower.name, address, links, addresses) for address in dict.fromkeys(addresses)]
    for device in found:
        check_free(host, borrower, device.address, device.group)
    if found and not host.devices.has_driver(VFIO):
        yield LoadVfio()
    for device in found:
        if device.driver != VFIO:
            yield Bind(borrower.notes, {"address": device.address, "driver": device.driver})
    for group in dict.fromkeys(device.group for device in found):
        yield from lending(host, borrower, group)


def _checked(host: Host, name: str, address: str, links: Mapping[str, Link], own: Sequence[str]) -> PciDevice:
    """The device, which nobody here would miss. own: all that the machine gets. Raises HostUnavailable, Busy."""
    device = host.devices.pci(address)
    if device is None:
        raise HostUnavailable(f"{name}: there is no PCI device {address}", hint=LOOK)
    if device.bridge:
        raise HostUnavailable(f"{name}: {address} is a bridge, a part of the bus itself", hint=LOOK)
    if not device.group:
        raise HostUnavailable(f"{name}: {address} is in no IOMMU group: a machine with it could read and write all of "
                              "the host's memory", hint=NO_IOMMU)
    others = [f"{other.address} ({other.driver})" for other in along(host.devices.group(device.group), device)
              if other.address not in own]
    if others:
        raise HostUnavailable(f"{name}: {address} shares the IOMMU group {device.group} with {', '.join(others)}: they "
                              f"can be given away together only", hint=f"{LOOK}; give it the others, too, or put the "
                              "card into another slot")
    if using := list(uses(device, links)):
        raise Busy(f"{name}: {address} is in use by the host: {'; '.join(using)}",
                   hint="take it out of use first, as ip link set NAME down, umount")
    return device


def along(group: Iterable[PciDevice], device: PciDevice) -> list[PciDevice]:
    """The others of its group that would have to leave their drivers with it; bridges stay: they are the bus itself."""
    return [other for other in group
            if other.address != device.address and not other.bridge and other.driver not in ("", VFIO)]


def check_free(host: Host, borrower: Borrower, device: str, group: str) -> None:
    if (user := _user(host, group)) not in (None, borrower.uid):
        raise Busy(f"{borrower.name}: {device} is in use by another machine, which runs (user {user})")


def uses(device: PciDevice, links: Mapping[str, Link] | None) -> Iterator[str]:
    """Why the host would miss it. links: None where nobody knows them.

    A card that is up counts where it leads somewhere: by an address, a route, a bridge that it is a port of, or a link
    on it, as that of a VLAN. One in another network namespace counts, too: nobody sees from here what it does there.
    """
    lower = {link.parent: link.name for link in (links or {}).values()}
    for name in device.cards:
        link = links.get(name) if links is not None else Link(name=name, up=False)
        if link is None:
            yield f"{name} is in another network namespace"
        elif link.up and (link.addresses or link.addresses6 or link.routes or link.master or name in lower):
            where = f" and in {link.master}" if link.master else f" and below {lower[name]}" if name in lower else ""
            addresses = ", ".join(map(str, (*link.addresses, *link.addresses6)))
            yield f"{name} is up{where}{f', with {addresses}' if addresses else ''}"
    yield from (f"the disk {disk} is in use" for disk in device.disks)
    if device.parts:
        yield f"{device.parts} virtual functions of it would go"


def give_back(host: Host, entry: Entry) -> None:
    """To the driver that it had; nothing where somebody else has taken it from VFIO since.

    Raises:  Busy where a machine that runs has its group: it was lent on since this was noted.
    """
    device = host.devices.pci(entry["address"])
    if device and device.driver in (VFIO, ""):
        if user := _user(host, device.group):
            raise Busy(f"{device.address} is in use by a machine, which runs (user {user})")
        host.devices.bind(entry["address"], entry["driver"])


def _user(host: Host, group: str) -> int | None:
    """The user of the machine that has the group, where any of its processes lives."""
    owner = host.devices.owner(group) if group else None
    taken = owner and identity.UID_MIN <= owner[0] <= identity.UID_MAX and host.qemu.lives(owner[0])
    return owner[0] if owner and taken else None


def take_back(host: Host, entry: Entry) -> None:
    owner = host.devices.owner(entry["group"])
    if owner and owner[0] == entry["uid"]:
        host.devices.give(entry["group"], *entry["before"])


BACK: notes.Ways = (("lent", "take /dev/vfio/{group} back", take_back),
                    ("bound", "give the device {address} back to {driver}", give_back))
"""Groups before the devices that are in them."""


# our own machines, whose records name their devices

def groups(host: Host, machine: Machine) -> tuple[str, ...]:
    """The numbers of the IOMMU groups of its devices, as far as these are there."""
    found = [host.devices.pci(address) for address in machine.devices]
    return tuple(dict.fromkeys(device.group for device in found
                               if device and device.group and not device.bridge))


def check(host: Host, store: Store, machines: Iterable[Machine]) -> None:
    """Whether machines that are to start can have their devices: nothing is taken from anybody yet.

    Raises:  HostUnavailable, Busy, NotPermitted where only root can.
    """
    machines = [machine for machine in machines if machine.devices]
    if not machines:
        return
    taken = _taken(host, store, machines)
    links = host.net.links()
    for machine in machines:
        for group in groups(host, machine):
            if (other := taken.setdefault(group, machine.name)) != machine.name:
                raise Busy(f"{machine.name}: what it gets of the IOMMU group {group} is the machine '{other}'s, "
                           "which runs, or is to", hint=f"vmstop {other}; {LOOK}")
        if store.world.rootless:
            _check_ours(host, machine, links)
        else:
            list(plan(host, _borrower(store.world, machine), machine.devices, links))
        _check_lockable(host, machine, rootless=store.world.rootless)


def lent(host: Host, store: Store, machines: Iterable[Machine]) -> list[Step]:
    """The steps that give machines their devices; none for ordinary users, to whom they were given. See `check`."""
    links: Mapping[str, Link] = {}
    steps: list[Step] = []
    for machine in machines:
        if machine.devices and not store.world.rootless:
            links = links or host.net.links()
            steps += plan(host, _borrower(store.world, machine), machine.devices, links)
    return steps


def alone(store: Store, machines: Iterable[Machine]) -> AbstractContextManager[None]:
    """While these machines get their devices, nobody takes them for dead and gives their devices back."""
    return notes.alone(store.world.loan(machine.uuid) for machine in machines
                       if machine.devices and not store.world.rootless)


def sweep(
    host: Host, world: World, besides: Iterable[Machine] = (), *, own: Iterable[Machine] | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> None:
    """Give the devices of all machines back of whose QEMU nothing is left, however it ended. Again: nothing.

    besides:  machines whose turn it is not.
    own:      those for which it is done; None: all. tell: called with the words of what fails for others.
    Raises:   for what cannot be given back of `own`, when all else was: the first failure, with the words of all.
    """
    problems: list[CloudMeError] = []
    skipped = {machine.uuid for machine in besides}
    asked = None if own is None else {machine.uuid for machine in own}
    for uuid in [uuid for uuid in notes.names(world.loans) if uuid not in skipped]:
        for error in _given_back(host, world, uuid):
            if asked is None or uuid in asked:
                problems.append(error)
            else:
                tell(error.message)
    if problems:
        problems[0].message = "\n".join(error.message for error in problems)
        raise problems[0]


def _given_back(host: Host, world: World, uuid: str) -> Iterator[CloudMeError]:
    """What fails of it."""
    path = world.loan(uuid)
    with notes.alone([path]):
        if host.qemu.lives(identity.uid(uuid)):
            return
        try:
            steps = list(notes.undoing(notes.read(path), BACK))
        except CloudMeError as error:
            yield error
            return
        for step in steps:
            try:
                step.do(host)
            except CloudMeError as error:
                yield error


def _borrower(world: World, machine: Machine) -> Borrower:
    uid = identity.uid(machine.uuid)
    return Borrower(name=machine.name, uid=uid, gid=uid, notes=notes.read(world.loan(machine.uuid)))


def _taken(host: Host, store: Store, machines: Sequence[Machine]) -> dict[str, str]:
    """IOMMU group -> which of our machines that run, others than these, has it, in whatever realm."""
    world, own = store.world, {machine.uuid for machine in machines}
    found: dict[str, str] = {}
    for whole, machine in everywhere(world, lambda it: bool(it.devices) and it.uuid not in own).items():
        folder = world.beside(whole.rpartition("/")[0]).machine(machine.name)
        if index.held(layout.lock(folder)):
            found |= dict.fromkeys(groups(host, machine), whole)
    return found


def _check_ours(host: Host, machine: Machine, links: Mapping[str, Link]) -> None:
    """Whether an ordinary user's machine can have its devices: root has given them to VFIO, and their groups to him."""
    for address in machine.devices:
        device = _checked(host, machine.name, address, links, machine.devices)
        if device.driver != VFIO or not host.devices.usable(device.group):
            raise NotPermitted(f"{machine.name}: {address} is not this user's: {_whose(device)}", hint=_typed(device))


def _check_lockable(host: Host, machine: Machine, *, rootless: bool) -> None:
    """Raises NotPermitted."""
    if not host.devices.lockable(locked := launch.locked_bytes(machine)):
        raise NotPermitted(f"{machine.name}: this user may not lock {locked >> 20} MiB of memory, which its devices "
                           "write to by themselves", hint=f"sudo sh -c 'echo {shared.me()} - memlock {locked >> 10} > "
                           "/etc/security/limits.d/cloudme.conf'; log in anew" if rootless else
                           "in a container: allow it CAP_SYS_RESOURCE, or a higher memlock (ulimit -Hl)")


def _whose(device: PciDevice) -> str:
    if device.driver != VFIO:
        return f"its driver is {device.driver}" if device.driver else "it has no driver"
    return f"/dev/vfio/{device.group} is closed to him"


def _typed(device: PciDevice) -> str:
    """What root would type."""
    steps = []
    if device.driver != VFIO:
        steps = [f"modprobe {VFIO}", "cd /sys/bus/pci", f"echo {VFIO} > devices/{device.address}/driver_override",
                 *([f"echo {device.address} > devices/{device.address}/driver/unbind"] if device.driver else []),
                 f"echo {device.address} > drivers_probe"]
    return f"sudo sh -c '{'; '.join([*steps, f'chown {shared.me()} /dev/vfio/{device.group}'])}'"
