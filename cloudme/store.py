"""Records on disk: claim, publish, find, lock, remove.

Claim is `mkdir`, under the store's lock, which is held for moments. Publish is the record, written last. A folder
without a record, whose lock nobody holds, is debris of a crash and is cleaned by the next claim of that name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Interface
from typing import Any, TypeVar

from cloudme import index, layout, shared
from cloudme.disk import reported as reported
from cloudme.disk import sync_folder as sync_folder
from cloudme.disk import take_lock as take_lock
from cloudme.disk import write_atomic as write_atomic
from cloudme.errors import AlreadyExists, NotFound, UsageError
from cloudme.formats import records
from cloudme.layout import World
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import WARMING, Image, Machine, Template
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK, Network, free_addresses, site6, slaac
from cloudme.model.ports import Host, Target

T = TypeVar("T")

FROZEN, PRIVATE = 0o444, 0o600

def blank(index: int = 0) -> str:
    """The empty overlay of disk number `index`, made once beside it: a clone's disk is a copy of it.

    Copying is 66 times faster than `qemu-img create` (measured).
    """
    return f"overlay{index or ''}.qcow2"


TEMPLATE_PREFIX = "template-"
"""A template that boots has the name 'template-<name>' on its network: a machine may have its plain name."""


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of one world, and whose their addresses are."""

    world: World

    def network_of(self, settings: Settings, name: str = DEFAULT_NETWORK) -> Network:
        """The network as it was last started or created; the default one, else, as the settings have it.

        A user has root's networks, too, where he is allowed to. Raises NotFound, NotPermitted.
        """
        if found := self.network(name):
            return found
        if name == DEFAULT_NETWORK:
            return self.designed(settings)
        if self.world.rootless and (found := shared.network(name)):
            return found
        permit = f"root shares his: sudo cmnet start --allow-user {shared.me()}"
        hint = permit if name == shared.HOST else f"cmnet create {name} --cidr ..."
        raise NotFound(f"no network '{name}'", hint=f"{hint}; cmnet list")

    def designed(self, settings: Settings) -> Network:
        """The default network as the settings have it."""
        return settings.network(self.site6(DEFAULT_NETWORK))

    def site6(self, name: str) -> IPv6Interface:
        """The IPv6 address of a bridge of ours, where nobody chose one: always the same here, and on no other host."""
        return site6(f"{_host_seed()}{self.world.data}", f"{self.world.realm}/{name}")

    def site(self) -> str:
        """A text that only this home on this host has."""
        return f"{_host_seed()}{self.world.data}/{self.world.realm}"

    def networks_of(self, settings: Settings, machines: Iterable[Machine]) -> dict[Name, Network]:
        """The networks that machines have cards in, by name."""
        names = dict.fromkeys(nic.network for machine in machines for nic in machine.nics)
        return {name: self.network_of(settings, name) for name in names}

    def is_shared(self, name: str) -> bool:
        """Whether the network is root's, and we are a user."""
        return self.world.rootless and name != DEFAULT_NETWORK and self.network(name) is None

    def networks(self) -> list[Network]:
        """Those that were started or created, sorted by name."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for file in sorted(os.listdir(self.world.networks)):
                if file.endswith(".json") and not file.startswith(".") and (one := self.network(file[:-len(".json")])):
                    found.append(one)
        return found

    def owners(self, network: str) -> dict[str, str]:
        """Who has which address of the network: address -> name. What a crash left owns nothing."""
        alive = {name for name in index.names(self.world.machines)
                 if index.state(self.world.machine(name), layout.MACHINE_RECORD) != "debris"}
        return {address: name for name, (_, address) in self.reservations(network).items()
                if name in alive or name.startswith(TEMPLATE_PREFIX) or shared.user_of(name)}

    def network(self, name: str = DEFAULT_NETWORK) -> Network | None:
        """The network as it was last started; None where it never was."""
        try:
            return read(self.world.network_record(name), records.network, f"no network '{name}'", hint="cmnet start")
        except NotFound:
            return None

    def users(self, network: str) -> tuple[str, ...]:
        """Who may have machines on it, whether it is started or not: what was set aside for them stays."""
        found = self.network(network)
        return found.users if found else tuple(sorted(
            {user for name in self.reservations(network) if (user := shared.user_of(name))}))

    def publish_network(self, network: Network) -> None:
        """Users read the record of what is shared with them."""
        os.makedirs(self.world.networks, exist_ok=True)
        write_atomic(self.world.network_record(network.name), records.dump(network),
                     mode=0o644 if network.users else PRIVATE)

    def reservations(self, network: str) -> dict[Name, tuple[str, str]]:
        """Whose is which address: name -> (mac, address). Read from what dnsmasq reads; others' files are left out."""
        folder = self.world.reservations(network)
        taken: dict[Name, tuple[str, str]] = {}
        with contextlib.suppress(FileNotFoundError):
            for file in os.listdir(folder):
                if file.startswith("."):
                    continue
                with (contextlib.suppress(FileNotFoundError, IsADirectoryError, UsageError, ValueError),
                      open(os.path.join(folder, file), encoding="utf-8") as text):
                    mac, address, _ = text.read().strip().split(",")
                    taken[Name(file)] = mac, address
        return taken

    def reserve(self, network: Network, name: str, mac: str, address: str) -> None:
        """Write the reservation (dnsmasq's `dhcp-host` syntax) and the name (hosts(5)); dnsmasq sees both at once."""
        names = f"{name}.{network.domain} {name}\n"
        address6 = slaac(network, mac)
        for folder, line in (
            (self.world.host_names(network.name), f"{address} {names}" + (f"{address6} {names}" if address6 else "")),
            (self.world.reservations(network.name), f"{mac},{address},{name}\n"),
        ):
            with reported(folder):
                os.makedirs(folder, exist_ok=True)
                os.chmod(folder, 0o755)  # whatever the umask is: dnsmasq reads them as its own user
            write_atomic(os.path.join(folder, name), line)

    def release(self, network: str, name: str) -> None:
        """Undo `reserve`; dnsmasq forgets a reservation only at its next reload."""
        for folder in (self.world.reservations(network), self.world.host_names(network)):
            with reported(folder), contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))


@dataclass(frozen=True, slots=True)
class Store(Networks):
    """The records of one world."""

    # folders

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The store's own lock, waited for: for choosing names and addresses, nothing slow."""
        with reported(self.world.data):
            os.makedirs(self.world.data, exist_ok=True)
            fd = os.open(self.world.store_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, index.WRITE_LOCK)
            yield
        finally:
            os.close(fd)

    def claim(self, host: Host, folder: str, record: str) -> int:
        """Make `folder`, cleaning debris of a crash first, and return the descriptor that holds its maker's lock.

        Call it under `locked`. The caller closes the descriptor after it has published or removed the folder.
        Raises:  AlreadyExists where somebody has, or is making, a thing of that name.
        """
        state = index.state(folder, record) if os.path.isdir(folder) else "free"
        if state in ("running", "stopped", "being-made"):
            raise AlreadyExists(f"'{os.path.basename(folder)}' exists" if state != "being-made"
                                else f"'{os.path.basename(folder)}' is being made by somebody else")
        with reported(folder):
            if state == "debris":
                if not os.path.islink(layout.lock(folder)):  # else it is systemd's
                    host.qemu.kill(layout.lock(folder))
                shutil.rmtree(folder)
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            os.mkdir(folder, 0o711)
            return take_lock(layout.maker(folder))

    def remove(self, folder: str, record: str) -> None:
        """Remove a thing: its record first, so that a crash leaves debris, not half a machine."""
        with reported(folder), contextlib.suppress(FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, record))
            shutil.rmtree(folder)

    # machines

    def publish(self, machine: Machine) -> None:
        """Write the record, and what is to be read by eye beside it."""
        if machine.image:
            display = str(machine.vnc_port or layout.socket(self.run_folder(machine), "vnc"))
            for file, word in ((layout.OS_NAME, machine.image), (layout.ADDRESS, machine.address or "dhcp"),
                               (layout.MAC, machine.nics[0].mac), (layout.DISPLAY, display)):
                write_atomic(os.path.join(self.folder(machine), file), f"{word}\n")
        write_atomic(self.world.machine_record(machine.name), records.dump(machine), mode=PRIVATE)

    def amend(self, name: str, **fields: Any) -> None:
        """Write some fields of a machine's record anew; others keep what somebody may have changed meanwhile."""
        with self.locked():
            self.publish(dataclasses.replace(self.machine(name), **fields))

    def machine(self, name: str) -> Machine:
        return read(self.world.machine_record(name), records.machine, f"no machine '{name}'",
                     hint="vmrunning -a lists them")

    def machines(self, group: str | None = None, type: str | None = None) -> list[Machine]:
        """The published machines, sorted by name."""
        found = _all(self.world.machines, self.machine)
        return [m for m in found if group in (None, m.group) and type in (None, m.type)]

    def group(self, group: str, type: str | None = None) -> list[Machine]:
        """Like `machines`; raises NotFound where there is none."""
        if not (whole := self.machines(group)):
            known = sorted({m.group for m in self.machines()})
            raise NotFound(f"no group '{group}'", hint=f"there is: {', '.join(known)}" if known else "vminstantiate -g")
        found = [m for m in whole if type in (None, m.type)]
        if not found:
            raise NotFound(f"no machine of type '{type}' in group '{group}'",
                           hint=f"there is: {', '.join(sorted({m.type for m in whole}))}")
        return found

    # templates

    def publish_template(self, template: Template) -> None:
        write_atomic(self.world.template_record(template.name), records.dump(template), mode=PRIVATE)

    def template(self, name: str) -> Template:
        known = index.names(self.world.templates)
        return read(self.world.template_record(name), records.template, f"no template '{name}'",
                     hint=f"there is: {', '.join(known)}" if known else f"vmcreate -n {name} --image IMAGE")

    def templates(self) -> list[Template]:
        return _all(self.world.templates, self.template)

    def clones_of(self, template: str) -> list[str]:
        """Names of the machines that stand on `template`, in every realm of the home; a realm's are 'realm/name'."""
        return list(everywhere(self.world, lambda machine: machine.template == template))

    def standing_on(self, image: str) -> list[str]:
        """Likewise of the machines whose disk stands on that of the RAM image in the folder `image`."""
        return list(everywhere(self.world, lambda machine: os.path.relpath(image, self.world.data) in machine.bases))

    def folder(self, machine: Machine) -> str:
        """The folder of a machine, or of a template that is started as one."""
        if machine.group == WARMING:
            return self.world.warm(machine.name)
        return self.world.template(machine.name) if machine.is_template else self.world.machine(machine.name)

    def run_folder(self, machine: Machine) -> str:
        if machine.group == WARMING:
            return self.world.warm_run(machine.name)
        return self.world.template_run(machine.name) if machine.is_template else self.world.machine_run(machine.name)

    def is_running(self, machine: Machine) -> bool:
        return index.held(layout.lock(self.folder(machine)))

    def target(self, machine: Machine, *, vsock: bool = False) -> Target:
        """Where ssh goes to reach the machine. Raises NotFound where it has no address of ours, or no vsock."""
        if vsock and machine.vsock_cid is None:
            raise NotFound(f"'{machine.name}' has no vsock", hint="vmcreate --machine --vsock-cid makes one that has")
        if machine.address is None and not vsock:
            raise NotFound(f"'{machine.name}' has no address of ours", hint=f"vmconsole {machine.name}"
                           if not machine.definition else "connections.0.ip in its definition")
        return Target(
            name=machine.name, address=machine.address or f"vsock-{machine.vsock_cid}", user=machine.access.user,
            key_file=self._key_file(machine),
            known_hosts_file=os.path.join(self.folder(machine), "known_hosts"),
            outside=self.is_outside(machine), vsock=machine.vsock_cid if vsock else None,
        )

    def is_outside(self, machine: Machine) -> bool:
        """Whether it is reached by a network of root's, while we are a user."""
        return bool(machine.nics) and self.is_shared(machine.nics[0].network)

    def _key_file(self, machine: Machine) -> str:
        if machine.access.key_of is None:
            return machine.access.key_file or ""
        return os.path.join(self.world.template(machine.access.key_of), "ssh_key")

    def boot_template(self, template: Template, network: Network) -> Machine:
        """The template as a machine of this realm that can be started, with an address reserved for it here.

        The ISO that it was installed from is in its drive while the file is there.
        """
        machine = template.machine()
        name = Name(f"{TEMPLATE_PREFIX}{template.name}")
        with self.locked():
            reservations = self.reservations(network.name)
            if name in reservations:
                address = reservations[name][1]
            else:
                address = free_addresses(network, [taken for _, taken in reservations.values()], 1)[0]
                self.reserve(network, name, template.nic.mac, address)
        cdrom = template.iso if template.iso and os.path.exists(template.iso) else None
        nic = dataclasses.replace(template.nic, address=address, address6=slaac(network, template.nic.mac))
        return dataclasses.replace(machine, cdrom=cdrom, nics=(nic,))

    def forget_template(self, name: str, network: str = DEFAULT_NETWORK) -> None:
        """Give a template's address in this realm back."""
        self.release(network, f"{TEMPLATE_PREFIX}{name}")

    # images

    def publish_image(self, image: Image) -> None:
        write_atomic(self.world.image_record(image.name), records.dump(image), mode=PRIVATE)

    def image(self, name: str) -> Image:
        known = ", ".join(i.name for i in self.images() if i.name != name)
        return read(self.world.image_record(name), records.image, f"no image '{name}'",
                     hint=f"there is: {known}" if known else f"cmimage build {name}")

    def images(self) -> list[Image]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for file in sorted(os.listdir(self.world.images)):
                if file.endswith(".json") and not file.startswith("."):
                    path = os.path.join(self.world.images, file)
                    found.append(read(path, records.image, f"no image '{file}'", hint=None))
        return found

    def templates_of(self, image: str) -> list[str]:
        return [template.name for template in self.templates() if template.image == image]

    def machines_on(self, image: str) -> list[str]:
        """Likewise of the machines whose disk stands on `image` itself."""
        return list(everywhere(self.world, lambda machine: machine.image == image))


def _host_seed() -> str:
    """What tells this host from others: its machine-id(5), else its name."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename


def everywhere(own: World, wanted: Callable[[Machine], bool]) -> dict[str, Machine]:
    """By name, in every realm of the home; in a named one by 'realm/name'."""
    worlds = [("", own.beside(""))] + [
        (f"{realm}/", own.beside(realm)) for realm in index.names(os.path.join(own.data, "realms"))]
    return {prefix + machine.name: machine for prefix, world in worlds
            for machine in Store(world).machines() if wanted(machine)}


def _all(folder: str, read: Callable[[str], T]) -> list[T]:
    """What is published in `folder`, sorted by name; what went meanwhile, or is being made, is passed over."""
    found = []
    for name in index.names(folder):
        with contextlib.suppress(NotFound):
            found.append(read(name))
    return found


def read(path: str, parse: Callable[[str, str], T], missing: str, *, hint: str | None) -> T:
    """The record at `path`. Raises NotFound, saying `missing`, StoreError."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(missing, hint=hint) from None
    except OSError as error:
        with reported(path):
            raise error
    return parse(text, path)
