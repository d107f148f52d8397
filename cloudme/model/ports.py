"""What the operations ask of the world: Protocols, implemented in `host/` and, for tests, in `tests/fakes/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Literal, Protocol

from cloudme.model.confinement import Confinement
from cloudme.model.definitions.tpm import Companions as Companions
from cloudme.model.devices import Devices
from cloudme.model.groups import Groups
from cloudme.model.guestports import Agent as Agent
from cloudme.model.guestports import Ended as Ended
from cloudme.model.guestports import HostReport as HostReport
from cloudme.model.guestports import Json as Json
from cloudme.model.guestports import Line as Line
from cloudme.model.guestports import Playbooks as Playbooks
from cloudme.model.guestports import Progress as Progress
from cloudme.model.guestports import Shell as Shell
from cloudme.model.guestports import Streams as Streams
from cloudme.model.guestports import Target as Target
from cloudme.model.launch import TapCard
from cloudme.model.network import Link
from cloudme.model.qemuports import Event as Event
from cloudme.model.qemuports import Events as Events
from cloudme.model.qemuports import Hypervisor as Hypervisor
from cloudme.model.qemuports import Monitor as Monitor
from cloudme.model.qemuports import Power as Power
from cloudme.model.systemd import Units


class Run(Protocol):
    """Starts programs. Raises CommandFailed (with the command to repeat it), MissingProgram, TimedOut."""

    def __call__(
        self, argv: Sequence[str], *, timeout_s: float = 60, stdin: bytes = b"", env: Mapping[str, str] | None = None,
        confinement: Confinement | None = None,
    ) -> str:
        """Wait for the program and return what it printed on stdout."""

    def spawn(
        self, argv: Sequence[str], *, stdout: str, fds: Sequence[int] = (), confinement: Confinement | None = None,
        locked_bytes: int = 0,
    ) -> int:
        """Start a program that outlives us, in a session of its own; both outputs are appended to the file `stdout`.

        `fds` are inherited under their own numbers. It may lock `locked_bytes` of memory, or what it may in any case.
        Returns the pid.
        Raises:  NotPermitted where it may not lock so much.
        """

    def attend(
        self, argv: Sequence[str], *, confinement: Confinement, pins: bool, heed: Callable[[int], bool],
    ) -> int:
        """Run a program with our own input and output until it ends, and return its exit status (128 + a signal's
        number, as a shell has it).

        pins:  it may lock memory, without limit.
        heed:  called for each SIGINT and SIGTERM that comes, with 1 for the first of them; where it returns False the
               program gets a SIGTERM.
        """

    def become(self, argv: Sequence[str]) -> None:
        """Go on as this program, on the user's own terminal and with all of his environment. It does not return."""

    def signal(self, pid_file: str, mark: str, number: int) -> bool:
        """Signal the process that `pid_file` names, if its command line has `mark`; False where there is none.

        Number 0 only asks. After SIGTERM and SIGKILL it returns when the process has ended.
        """

    def find(self, program: str) -> str | None:
        """The path of an installed program, sbin folders included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A process that takes what comes to a port of the host's to a machine.

    lock, log: its files. machine: the lock of the machine, with whose QEMU it ends. address, port: the machine's.
    uid: whose it is where root starts it.
    """

    name: str
    protocol: Literal["tcp", "udp"]
    address: str
    port: int
    lock: str
    log: str
    machine: str
    uid: int


class Relays(Protocol):
    """Those processes."""

    def start(self, relay: Relay, listener: int) -> None:
        """Start one that serves the socket `listener`, and return when it does. The caller closes its own copy.

        Raises:  Busy where its lock is held, or the machine does not run; PeerError with its last words where it ended.
        """

    def end(self, lock: str) -> None:
        """End the one that holds `lock`, and return when its port is free. Nobody there: nothing."""


class Net(Protocol):
    """The links of the realm that this process is in."""

    def bridge_exists(self, bridge: str) -> bool: ...

    def link_exists(self, link: str) -> bool:
        """Of any kind."""

    def taps(self, cards: Sequence[TapCard]) -> list[int]:
        """Make a tap for each card and return the descriptors; a tap is gone when the last copy of its own is closed.

        Each is guarded before it becomes a port of its bridge; those that QEMU's helper makes are not.
        Raises:  HostUnavailable where there is no such bridge, NotPermitted where the user may not.
        """

    def guard(self, cards: Sequence[TapCard]) -> None:
        """Guard the taps of these cards anew, where they are there; there is no moment without a guard."""

    def unguarded(self, cards: Sequence[TapCard]) -> list[TapCard]:
        """Those of the cards that want a guard, and whose taps are there without: somebody flushed nft's rules."""

    def sweep(self) -> None:
        """Take away what is left of the guards of taps that are gone."""

    def add_tap(self, name: str, uid: int, mtu: int) -> None:
        """Make a tap that stays when nobody has it open, and that the user `uid` may open."""

    def join(self, name: str, card: TapCard) -> None:
        """Guard a tap that stays, and make it a port of the card's bridge, wherever it was, and up."""

    def is_guarded(self, name: str, card: TapCard) -> bool:
        """Whether such a tap has the guard that its card wants, as far as one sees."""

    def links(self) -> Mapping[str, Link]:
        """All links, by name."""

    def permitted(self) -> bool:
        """Whether this process may change links at all."""

    def add_bridge(self, bridge: str, mac: str) -> None:
        """Make a bridge that forwards at once and filters nothing."""

    def set_bridge(
        self, bridge: str, alias: str, address: IPv4Interface, address6: IPv6Interface | None,
    ) -> None:
        """Name its owner, give it these addresses and no others, set it up. It takes no routes from who is on it."""

    def set_trunk(self, bridge: str, mac: str, alias: str) -> None:
        """Make a bridge that keeps VLANs apart, or make one that is there so; name its owner, set it up.

        What joins it is in no VLAN.  Raises:  HostUnavailable where this kernel has none such.
        """

    def check_trunks(self) -> None:
        """Whether `set_trunk` and `add_vlan` work here, tried where nobody sees it. Nothing where that cannot be tried.

        Raises:  HostUnavailable, as they do.
        """

    def add_vlan(self, bridge: str, vlan: int, link: str) -> None:
        """The bridge carries the VLAN, and has the link of this name there. Likewise."""

    def remove_vlan(self, bridge: str, vlan: int, link: str) -> None:
        """Neither is so any longer. Missing: nothing."""

    def tag(self, card: str, bridge: str, vlan: int) -> None:
        """Make a card a port of the bridge, up, on which the VLAN has its tags. Others of it stay."""

    def untag(self, card: str, vlan: int) -> None:
        """The VLAN is no longer on that card, which stays a port. Missing: nothing."""

    def ipv6(self) -> bool:
        """Whether the kernel has IPv6, and lets new links use it."""

    def arp(self, bridge: str, addresses: Sequence[str], *, wait_s: float = 0.3) -> Mapping[str, str]:
        """Ask who has these IPv4 addresses (RFC 5227, probes): address -> MAC of those that answer.

        wait_s:  how long an answer may take; the question is asked three times.
        Raises:  NotPermitted.
        """

    def remove_link(self, name: str) -> None:
        """Missing: nothing."""

    def plug(self, link: str, bridge: str) -> None:
        """Make a link a port of `bridge`, and set it up. Raises HostUnavailable where one of them is missing."""

    def unplug(self, link: str) -> None:
        """Take a link out of its bridge, if it is in one, and set it down, if no VLAN's link stands on it.
        Likewise."""

    def forwarding(self) -> bool:
        """Whether IPv4 is forwarded here."""

    def forward(self) -> None:
        """Forward IPv4 from here on."""

    def bridge_filter(self) -> bool:
        """Whether frames on bridges pass the firewall as if they were routed (net.bridge.bridge-nf-call-*)."""

    def unfilter(self) -> None:
        """They no longer do."""

    def port_taken(self, address: str) -> str | None:
        """Who keeps DNS and DHCP from being served on `address`, as 'port 53: named (pid 12)'."""

    def datagram(self, address: str, port: int, payload: bytes) -> None:
        """Send one UDP packet."""

    def neighbour(self, address: str) -> str:
        """What ARP knows of `address`: a state of ip-neighbour(8), as 'reachable' or 'failed'; '' for nothing."""


class Outside(Protocol):
    """What is done in the host's own namespaces, wherever this command is by now."""

    def listen(self, protocol: Literal["tcp", "udp"], address: str, port: int) -> int:
        """A socket that is bound there, and listens; its descriptor.

        Raises:  Busy where the port is taken, NotPermitted, UsageError where the host has no such address.
        """

    def tap(self, bridge: str) -> int:
        """Let QEMU's setuid helper make a tap, a port of `bridge`; its descriptor. Raises NotPermitted."""

    def bridge_exists(self, bridge: str) -> bool: ...

    def tcp(self) -> int:
        """A TCP socket (IPv4) that nobody has connected yet: wherever that is done, it begins there. Its descriptor."""

    def door(self, path: str) -> None:
        """Answer all this to other commands of this user, too, at the socket `path`, for as long as this one lives."""

    def run(self, argv: Sequence[str], *, timeout_s: float = 60) -> str:
        """See `Run`."""

    def spawn(self, argv: Sequence[str], *, stdout: str, ready: str, among: int) -> int:
        """See `Run.spawn`. It may make links in the network namespace of process `among`; its path replaces a word NET.

        ready:   its option that takes the number of a descriptor, to which it writes when it serves: we wait for that.
        Raises:  CommandFailed where it does not.
        """


class Download(Protocol):
    """Files from http and https servers.

    Raises:  Busy where the server cannot be reached, or fails, however often it is tried; NotFound where it has no such
             file; PeerError where it says no, or nonsense.
    """

    def text(self, url: str) -> bytes:
        """A small file, as checksums are."""

    def file(
        self, url: str, path: str, *, mark: str, room: Callable[[int], None], progress: Progress,
    ) -> None:
        """Bring a file to `path`, going on where an earlier call with the same `mark` ended, if the file is the same.

        room:    called with the number of bytes to come, where it is known, before they do; what it raises ends it.
        Raises:  StoreError. Whatever is raised, what came stays at `path`, and notes of it in `path`.json.
        """


class Files(Protocol):
    """The host's own files, as paths from its root. Those of /proc and /sys are among them."""

    def read(self, path: str) -> str | None:
        """None where it is missing, or may not be read."""

    def mode(self, path: str) -> int | None:
        """st_mode (inode(7)); None where there is no such file."""

    def openable(self, path: str) -> bool:
        """Whether this process may open it to read and write."""

    def names(self, path: str) -> list[str]:
        """What is in a folder, sorted; nothing where it is missing."""

    def free_bytes(self, path: str) -> int:
        """What may still be written on the disk of `path`, which may not exist yet."""

    def changed_s(self, path: str) -> float:
        """When it was changed last, in seconds since 1970; 0 where it is missing."""

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Atomically; a value below /proc in place. Raises NotPermitted, StoreError."""

    def device(self, path: str, major: int, minor: int) -> None:
        """Make a character device, 0666. Raises NotPermitted, StoreError."""

    def remove(self, path: str) -> None: ...

    def chmod(self, path: str, mode: int) -> None: ...

    def allows(self, path: str, uid: int, gid: int, mode: int) -> bool:
        """Whether a user without capabilities may use a file so. mode: see access(2).

        True where this process cannot become him.
        """


class Iso(Protocol):
    """Writes small ISO 9660 disks."""

    def write(self, path: str, label: str, files: Mapping[str, bytes]) -> None:
        """Make the file `path`, 0600, with Rock Ridge and Joliet names."""


class Keys(Protocol):
    """ssh keys."""

    def ed25519(self, comment: str) -> tuple[str, str]:
        """A fresh pair: (private key in OpenSSH's format, public key line)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Everything that an operation may ask of the world."""

    run: Run
    qemu: Hypervisor
    events: Events
    groups: Groups
    net: Net
    outside: Outside
    relays: Relays
    companions: Companions
    units: Units
    shell: Shell
    agent: Agent
    streams: Streams
    playbooks: Playbooks
    download: Download
    iso: Iso
    keys: Keys
    files: Files
    devices: Devices
    now: Callable[[], float]
    synchronised: Callable[[], bool]
    become_root: Callable[[], None]
    """In a user namespace of this process's own. Nothing for root. Raises NotPermitted, MissingProgram."""

