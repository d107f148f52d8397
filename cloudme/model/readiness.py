"""How far a machine has come, and why no further: what the host sees -> one cause. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum

GOALS = ("booted", "address", "ssh", "agent")
"""What can be waited for."""

ANSWERS = ("closed", "silent", "host-key", "refused", "ready")
"""Results of `Shell.probe` that only a guest with its address can bring about."""

CONSOLES = ("vmconsole ", "vm -G ", "vmlogs ")
"""How hints begin that are of no use where a machine has no console."""

SETTLE_S = 60
"""How long a refused key or a wrong host key may last: cloud-init may still be replacing what the image came with."""

POWERED_OFF = "reboot: Power down"
"""A Linux kernel's last line (kernel/reboot.c)."""


class Stage(IntEnum):
    """In order; their names are what a user reads."""

    process = 0
    firmware = 1
    kernel = 2
    booted = 3
    address = 4
    port = 5
    ssh = 6
    agent = 7


SAID = {
    Stage.process: "runs", Stage.firmware: "starts from its disk", Stage.kernel: "runs its kernel",
    Stage.booted: "has booted", Stage.address: "has its address", Stage.port: "has its ssh port open",
    Stage.ssh: "answers ssh", Stage.agent: "answers through its guest agent",
}


class Firmware(StrEnum):
    """What the firmware's log says of this start."""

    unseen = "unseen"
    searching = "searching"
    started = "started"
    no_disk = "no-disk"


class Boot(IntEnum):
    """The last sign on the serial console; from `loader_stuck` on, nothing more will come without help."""

    silent = 0
    loader = 1
    kernel = 2
    system = 3
    booted = 4
    loader_stuck = 5
    initramfs = 6
    emergency = 7
    halted = 8
    panic = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial:
    """What the serial console says of this start, or the screen where the console is silent.

    line: the line of the sign, for a panic its message.  last: the last line of all.
    complaint: what cloud-init complained of.             finished: cloud-init said that it is done.
    """

    boot: Boot = Boot.silent
    line: str = ""
    last: str = ""
    complaint: str = ""
    finished: bool = False


class DhcpState(StrEnum):
    """unwatched: nobody of ours serves the network, or its log is not there."""

    unwatched = "unwatched"
    silent = "silent"
    unanswered = "unanswered"
    refused = "refused"
    declined = "declined"
    offered = "offered"
    given = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dhcp:
    """How far DHCP came in this start; `words` is what dnsmasq gave as its reason."""

    state: DhcpState = DhcpState.unwatched
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the host sees of one machine. The defaults: nothing was looked at.

    met: whether it was alive in this wait.
    last_words: QEMU's.     neighbour: the kernel's word on the address (ip-neighbour(8)), '' where not asked.
    probe: of `Shell.probe`, '' where not tried.           steady_s: how long it has been the same.
    unit: systemd's, of a machine that is defined: it has no serial console, and no logs of ours.
    """

    alive: bool = True
    met: bool = False
    last_words: str = ""
    firmware: Firmware = Firmware.unseen
    serial: Serial = field(default_factory=Serial)
    agent: bool = False
    network_trouble: str = ""
    dhcp: Dhcp = field(default_factory=Dhcp)
    neighbour: str = ""
    probe: str = ""
    steady_s: float = 0
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """The stage that was not reached, why, and what shows more or mends it; NAME in `hint` is the machine.

    hopeless: waiting on will not help.
    """

    stage: Stage
    why: str
    hint: str
    hopeless: bool = False


def reached(seen: Evidence, goal: str) -> bool:
    """Whether `goal`, one of GOALS, is reached. Earlier stages are not insisted on: not every guest shows them."""
    match goal:
        case "booted":
            return seen.agent or seen.serial.boot == Boot.booted or (bool(seen.unit) and seen.probe in ANSWERS)
        case "agent":
            return seen.agent
        case "address":
            return seen.dhcp.state == DhcpState.given or seen.probe in ANSWERS
        case _:
            return seen.probe == "ready"


def progress(seen: Evidence) -> Stage:
    """The last stage that was reached, as far as can be seen."""
    if seen.probe == "ready":
        return Stage.ssh
    if seen.probe in ("silent", "host-key", "refused"):
        return Stage.port
    if seen.probe in ANSWERS or seen.dhcp.state == DhcpState.given:
        return Stage.address
    if seen.agent or seen.serial.boot == Boot.booted:
        return Stage.booted
    if seen.serial.boot in (Boot.kernel, Boot.system):
        return Stage.kernel
    return Stage.firmware if seen.firmware == Firmware.started or seen.serial.boot == Boot.loader else Stage.process


def diagnose(seen: Evidence, goal: str) -> Cause:
    """Why `goal`, which is not reached, is not."""
    cause = _cause(seen, goal)
    if not seen.unit:
        return cause
    known = [hint for hint in cause.hint.split("; ") if not hint.startswith(CONSOLES)]
    journal = f"journalctl --unit {seen.unit}"
    return replace(cause, hint="; ".join(known if seen.alive and known else
                                         [*known, *["vmquery NAME"] * seen.alive, journal]))


def _cause(seen: Evidence, goal: str) -> Cause:
    if not seen.alive:
        return Cause(stage=Stage.process, why=_gone(seen), hint="vm NAME starts it", hopeless=True)
    if stuck := _stuck(seen):
        return stuck
    if goal == "agent" and (seen.serial.boot == Boot.booted or seen.probe in ANSWERS):
        return Cause(stage=Stage.agent, why="the guest has booted, but no guest agent answers",
                     hint="vm NAME -- systemctl status qemu-guest-agent")
    if goal in ("address", "ssh") and (cause := _ssh(seen) or _address(seen)):
        return cause
    return _boot(seen)


def _gone(seen: Evidence) -> str:
    if seen.last_words:
        return f"QEMU has gone: {seen.last_words}"
    if POWERED_OFF in seen.serial.last:
        return "the guest has powered itself off"
    return "QEMU has gone without a word" if seen.met else "it is not running"


def _stuck(seen: Evidence) -> Cause | None:
    """What the guest will not leave by itself. A guest that still answers has left it, unless the kernel panicked."""
    boot, line = seen.serial.boot, seen.serial.line
    if boot == Boot.panic:
        return Cause(stage=Stage.booted, why=f"the kernel panicked: {line}", hint="vmlogs NAME", hopeless=True)
    if seen.probe in ANSWERS:
        return None
    if seen.firmware == Firmware.no_disk:
        return Cause(stage=Stage.firmware, why="the firmware found no disk to boot", hint="vm -G NAME shows its screen",
                     hopeless=True)
    stage, what = {
        Boot.loader_stuck: (Stage.kernel, "the boot loader finds nothing to start"),
        Boot.initramfs: (Stage.booted, "the initramfs does not find the root disk"),
        Boot.emergency: (Stage.booted, "the guest went into emergency mode"),
        Boot.halted: (Stage.booted, "the guest has halted"),
    }.get(boot, (Stage.booted, ""))
    if not what:
        return None
    return Cause(stage=stage, why=f"{what}: {line}", hint="vmconsole NAME, or vm -G NAME for its screen", hopeless=True)


def _ssh(seen: Evidence) -> Cause | None:
    """What a guest that answers lacks."""
    settled = seen.serial.finished or seen.steady_s >= SETTLE_S
    complaint = f" (cloud-init: {seen.serial.complaint})" if seen.serial.complaint else ""
    match seen.probe:
        case "closed":
            return Cause(stage=Stage.port, why="its address answers, but the ssh port is closed" + complaint,
                         hint="vmconsole NAME, then: systemctl status ssh")
        case "silent":
            return Cause(stage=Stage.ssh, why="the ssh port is open, but nothing speaks ssh there",
                         hint="vmconsole NAME, then: systemctl status ssh")
        case "host-key":
            return Cause(stage=Stage.ssh, why="it shows another ssh host key than the one that was pinned",
                         hint="vmlogs NAME; if you changed its key, remove the known_hosts file in its folder",
                         hopeless=settled)
        case "refused":
            return Cause(stage=Stage.ssh, why="the guest refuses the ssh key" + complaint, hint="vmlogs NAME",
                         hopeless=settled)
    return None


def _address(seen: Evidence) -> Cause | None:
    """Why a guest does not answer at its address; None where it has not come so far."""
    state, words = seen.dhcp.state, f" ({seen.dhcp.words})" if seen.dhcp.words else ""
    if state == DhcpState.given:
        silent = seen.neighbour in ("failed", "incomplete")
        why = "it was given its address, but " + (
            "nobody answers ARP for it" if silent else "connections to it get no answer")
        return Cause(stage=Stage.port, why=why, hint="cmcheck; vmconsole NAME, then: ip address")
    if seen.network_trouble:
        return Cause(stage=Stage.address, why=f"nobody answers DHCP there: {seen.network_trouble}", hint="cmnet start")
    match state:
        case DhcpState.unanswered:
            return Cause(stage=Stage.address, why=f"its DHCP request was seen, but not answered{words}",
                         hint="cmnet reload; cmnet status")
        case DhcpState.refused:
            return Cause(stage=Stage.address, why=f"its DHCP request was refused{words}",
                         hint="cmnet reload; cmnet status")
        case DhcpState.declined:
            return Cause(stage=Stage.address, why=f"it declined its address: somebody else uses it{words}",
                         hint="ip neighbour; cmnet status")
        case DhcpState.offered:
            return Cause(stage=Stage.address, why="it was offered its address, but did not take it",
                         hint="vmconsole NAME; cmnet status")
    if not (seen.agent or seen.serial.boot == Boot.booted):
        return None
    why = "it has booted, but " + ("no DHCP request was seen from it" if state == DhcpState.silent
                                   else "does not answer at its address")
    return Cause(stage=Stage.address, why=why, hint="cmcheck; vmconsole NAME, then: ip address")


def _boot(seen: Evidence) -> Cause:
    """Where a guest that is not up yet was seen last."""
    boot, last = seen.serial.boot, seen.serial.last
    if boot in (Boot.kernel, Boot.system, Boot.booted):
        return Cause(stage=Stage.booted, why=f"it is still booting; its last line: {last}", hint="vmlogs -f NAME")
    if boot == Boot.loader:
        return Cause(stage=Stage.kernel, why=f"the boot loader started, but no kernel was seen; its last line: {last}",
                     hint="vmconsole NAME")
    if seen.firmware == Firmware.started:
        why = "its disk was started, but says nothing on the serial console" + (f"; its screen: {last}" if last else "")
        return Cause(stage=Stage.kernel, why=why, hint="vm -G NAME shows its screen")
    if seen.firmware == Firmware.searching:
        return Cause(stage=Stage.firmware, why="the firmware has not started a disk yet",
                     hint="vm -G NAME shows its screen")
    return Cause(stage=Stage.booted, why="nothing was heard of it", hint="vm -G NAME shows its screen")
