"""The steps of which starting and stopping a network are made. Each can be undone; stopping is undoing in reverse."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from cloudme.errors import StoreError
from cloudme.formats import blocks, dhcp
from cloudme.model import identity
from cloudme.model.launch import TapCard
from cloudme.model.network import Network
from cloudme.model.ports import Host
from cloudme.model.steps import Step
from cloudme.operations.networks import serving
from cloudme.store import Store, reported, write_atomic


def alias(network: Network) -> str:
    """The owner's mark on a bridge of ours (ip-link(8), alias)."""
    return f"cloudme {network.name}"


def addresses(network: Network) -> str:
    return f"{network.address} and {network.address6}" if network.address6 else str(network.address)


@dataclass(frozen=True, slots=True)
class Reversed:
    """A step backwards: what it had done is undone, and done again where that has to be undone."""

    step: Step
    words: str

    def describe(self) -> str:
        return self.words

    def do(self, host: Host) -> None:
        self.step.undo(host)

    def undo(self, host: Host) -> None:
        self.step.do(host)


@dataclass(frozen=True, slots=True)
class MakeBridge:
    """The card's address is derived from the name: guests keep knowing their gateway over a stop and a start."""

    network: Network

    def describe(self) -> str:
        return f"make the bridge {self.network.bridge} with {addresses(self.network)}"

    def do(self, host: Host) -> None:
        host.net.add_bridge(self.network.bridge, identity.mac(f"bridge/{self.network.bridge}"))
        host.net.set_bridge(self.network.bridge, alias(self.network), self.network.address, self.network.address6)

    def undo(self, host: Host) -> None:
        host.net.remove_link(self.network.bridge)


@dataclass(frozen=True, slots=True)
class SetBridge:
    """`before` and `before6` are the addresses that the bridge had, None for none."""

    network: Network
    before: IPv4Interface | None
    before6: IPv6Interface | None

    def describe(self) -> str:
        return f"set {self.network.link} up with {addresses(self.network)}"

    def do(self, host: Host) -> None:
        host.net.set_bridge(self.network.link, alias(self.network), self.network.address, self.network.address6)

    def undo(self, host: Host) -> None:
        if self.before:
            host.net.set_bridge(self.network.link, alias(self.network), self.before, self.before6)


@dataclass(frozen=True, slots=True)
class Forward:
    """Stays when the network stops: others may have come to rely on it."""

    def describe(self) -> str:
        return "forward IPv4"

    def do(self, host: Host) -> None:
        host.net.forward()

    def undo(self, host: Host) -> None:
        """Nothing: see above."""


@dataclass(frozen=True, slots=True)
class Unfilter:
    """In a realm of ours nobody else has rules for what passes a bridge. Of the host's own, cmcheck --fix decides."""

    def describe(self) -> str:
        return "let frames pass bridges without the firewall"

    def do(self, host: Host) -> None:
        host.net.unfilter()

    def undo(self, host: Host) -> None:
        """Nothing: it harms nobody."""


@dataclass(frozen=True, slots=True)
class Rules:
    network: Network
    text: str

    def describe(self) -> str:
        what = "forwarding and masquerading" if self.network.nat else "forwarding"
        return f"allow {what} for {self.network.link} (nft table {dhcp.table(self.network)})"

    def do(self, host: Host) -> None:
        host.run(["nft", "-f", "-"], stdin=self.text.encode())

    def undo(self, host: Host) -> None:
        host.run(["nft", "-f", "-"], stdin=dhcp.no_rules(self.network).encode())


@dataclass(frozen=True, slots=True)
class GuardTaps:
    """Those of a machine that runs."""

    machine: str
    cards: tuple[TapCard, ...]

    def describe(self) -> str:
        return f"guard {self.machine}'s tap on {self.cards[0].bridge}"

    def do(self, host: Host) -> None:
        host.net.guard(self.cards)

    def undo(self, host: Host) -> None:
        """Nothing: there was to be a guard all the time."""


@dataclass(frozen=True, slots=True)
class Block:
    """A marked block in a file of the host.

    then:   the program that makes its reader see the change.
    group:  of a file that we make: it alone may read it. Without one, everybody may.
    """

    path: str
    mark: str
    before: tuple[str, ...]
    lines: tuple[str, ...]
    then: tuple[str, ...] = ()
    group: str = ""

    def describe(self) -> str:
        return f"{self.path}: {'; '.join(self.lines) or 'take our lines out'}"

    def do(self, host: Host) -> None:
        self._write(host, self.lines)

    def undo(self, host: Host) -> None:
        self._write(host, self.before)

    def _write(self, host: Host, lines: tuple[str, ...]) -> None:
        write_block(self.path, self.mark, lines, self.group)
        if self.then:
            host.run(list(self.then))


def read_block(path: str, mark: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            return blocks.read(file.read(), mark)
    except (FileNotFoundError, NotADirectoryError):
        return ()


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """One change at a time to the files of a folder, by all cmnet of this host."""
    os.makedirs(folder, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_block(path: str, mark: str, lines: tuple[str, ...], group: str = "") -> None:
    """Owner and mode of the file stay; a file that had only our lines goes with them."""
    path = os.path.realpath(path)
    with reported(path), _alone(os.path.dirname(path)):
        try:
            with open(path, encoding="utf-8") as file:
                text, state = file.read(), os.fstat(file.fileno())
        except FileNotFoundError:
            text, state = "", None
        changed = blocks.replace(text, mark, lines)
        if changed == text:
            return
        if not changed:
            os.unlink(path)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            write_atomic(path, changed, mode=state.st_mode & 0o7777 if state else 0o640 if group else 0o644)
        except StoreError as error:
            if getattr(error.__cause__, "errno", None) != errno.EBUSY:
                raise
            with open(path, "w", encoding="utf-8") as file:  # a mount point, as a container's /etc/hosts
                file.write(changed)
        if state:
            os.chown(path, state.st_uid, state.st_gid)
        elif group:
            with contextlib.suppress(LookupError):
                shutil.chown(path, group=group)


@dataclass(frozen=True, slots=True)
class Resolved:
    """systemd-resolved asks our dnsmasq about our domain, and about nothing else; it forgets with the link."""

    network: Network

    def describe(self) -> str:
        return f"let systemd-resolved ask {self.network.address.ip} for *.{self.network.domain}"

    def do(self, host: Host) -> None:
        link = self.network.link
        host.run(["resolvectl", "dns", link, str(self.network.address.ip)])
        host.run(["resolvectl", "domain", link, f"~{self.network.domain}"])
        host.run(["resolvectl", "default-route", link, "no"])

    def undo(self, host: Host) -> None:
        host.run(["resolvectl", "revert", self.network.link])


@dataclass(frozen=True, slots=True)
class Serve:
    """dnsmasq with `text` as its configuration. `before`: the text with which it ran, None where it did not."""

    store: Store
    network: Network
    text: str
    before: str | None

    def describe(self) -> str:
        return f"{'start' if self.before is None else 'restart'} dnsmasq on {self.network.link}: " \
               f"DHCP and DNS for {self.network.domain}"

    def do(self, host: Host) -> None:
        self._end(host)
        self._begin(host, self.text)

    def undo(self, host: Host) -> None:
        self._end(host)
        if self.before is None:
            shutil.rmtree(self.store.world.network_run(self.network.name), ignore_errors=True)
        else:
            self._begin(host, self.before)

    def _begin(self, host: Host, text: str) -> None:
        """dnsmasq goes into the background once it serves: its first process ends then, or with what is wrong."""
        world, name = self.store.world, self.network.name
        serving.furnish(world, name)
        serving.tell_reached(self.store, self.network)
        conf = world.dnsmasq(name, "conf")
        write_atomic(conf, text)
        host.run(["dnsmasq", f"--conf-file={conf}"], confinement=serving.confinement(world))

    def _end(self, host: Host) -> None:
        send(host, self.store, self.network, signal.SIGTERM)


def send(host: Host, store: Store, network: Network, number: int) -> bool:
    """Signal the dnsmasq of the network; False where none runs. Number 0 only asks."""
    return host.run.signal(store.world.dnsmasq(network.name, "pid"), store.world.dnsmasq(network.name, "conf"), number)


@dataclass(frozen=True, slots=True)
class Record:
    """The network as it is meant; None: the default one that is stopped, and another one that is deleted."""

    store: Store
    before: Network | None
    network: Network | None

    def describe(self) -> str:
        if self.network:
            return f"note what the network '{self.network.name}' is"
        return f"forget what the network '{self.before.name if self.before else ''}' is"

    def do(self, host: Host) -> None:
        self._write(self.network)

    def undo(self, host: Host) -> None:
        self._write(self.before)

    def _write(self, network: Network | None) -> None:
        if network:
            self.store.publish_network(network)
        elif known := self.network or self.before:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.store.world.network_record(known.name))
