"""Every wait ends in a cause: what is concluded from what is seen, and how a wait behaves."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.errors import CloudMeError, NotFound, PeerError, TimedOut
from cloudme.model import readiness as model
from cloudme.model.machine import Access, Machine, Nic, Shape
from cloudme.model.names import Name
from cloudme.model.network import Network
from cloudme.model.ports import Host, Target
from cloudme.model.readiness import Boot, Dhcp, DhcpState, Evidence, Firmware, Serial, Stage
from cloudme.operations import readiness
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import Ended

DATA = Path(__file__).parent.parent / "data" / "evidence"
MAC = "52:54:00:00:00:01"
UP = Serial(boot=Boot.booted, line="web00 login:", last="web00 login:")


def serial(boot: Boot, line: str = "x") -> Serial:
    return Serial(boot=boot, line=line, last=line)


def dhcp(state: DhcpState, words: str = "") -> Dhcp:
    return Dhcp(state=state, words=words)


@pytest.mark.parametrize(("seen", "stage", "why", "hint", "hopeless"), [
    ({"alive": False, "last_words": "terminating on signal 15"}, Stage.process,
     "QEMU has gone: terminating on signal 15", "vm NAME", True),
    ({"alive": False}, Stage.process, "not running", "vm NAME", True),
    ({"alive": False, "met": True}, Stage.process, "QEMU has gone without a word", "vm NAME", True),
    ({"alive": False, "serial": serial(Boot.silent, "[9.1] reboot: Power down")}, Stage.process, "powered itself off",
     "vm NAME", True),
    ({"firmware": Firmware.no_disk}, Stage.firmware, "found no disk to boot", "vm -G NAME", True),
    ({"firmware": Firmware.searching}, Stage.firmware, "has not started a disk", "vm -G NAME", False),
    ({"firmware": Firmware.started}, Stage.kernel, "says nothing on the serial console", "vm -G NAME", False),
    ({"serial": serial(Boot.loader, "Booting `Debian'")}, Stage.kernel, "Booting `Debian'", "vmconsole NAME", False),
    ({"serial": serial(Boot.loader_stuck, "grub rescue>")}, Stage.kernel, "grub rescue>", "vmconsole NAME", True),
    ({"serial": serial(Boot.panic, "VFS: Unable to mount")}, Stage.booted, "panicked: VFS: Unable to mount",
     "vmlogs NAME", True),
    ({"serial": serial(Boot.panic), "probe": "closed", "agent": True}, Stage.booted, "panicked", "vmlogs NAME", True),
    ({"serial": serial(Boot.initramfs)}, Stage.booted, "root disk", "vmconsole NAME", True),
    ({"serial": serial(Boot.emergency)}, Stage.booted, "emergency mode", "vmconsole NAME", True),
    ({"serial": serial(Boot.kernel, "[ 9.1] vda: vda1")}, Stage.booted, "last line: [ 9.1] vda", "vmlogs -f NAME",
     False),
    ({"serial": UP, "network_trouble": "x"}, Stage.address, "nobody answers DHCP there: x", "cmnet start", False),
    ({"serial": UP, "dhcp": dhcp(DhcpState.silent)}, Stage.address, "no DHCP request was seen", "ip address", False),
    ({"serial": UP}, Stage.address, "does not answer at its address", "cmcheck", False),
    ({"dhcp": dhcp(DhcpState.unanswered, "no address available")}, Stage.address,
     "seen, but not answered (no address available)", "cmnet reload", False),
    ({"dhcp": dhcp(DhcpState.refused, "wrong address")}, Stage.address, "refused (wrong address)", "cmnet reload",
     False),
    ({"dhcp": dhcp(DhcpState.declined)}, Stage.address, "somebody else uses it", "ip neighbour", False),
    ({"dhcp": dhcp(DhcpState.offered)}, Stage.address, "did not take it", "vmconsole NAME", False),
    ({"dhcp": dhcp(DhcpState.given), "neighbour": "failed"}, Stage.port, "nobody answers ARP", "vmconsole NAME", False),
    ({"dhcp": dhcp(DhcpState.given)}, Stage.port, "get no answer", "vmconsole NAME", False),
    ({"probe": "closed"}, Stage.port, "the ssh port is closed", "systemctl status ssh", False),
    ({"probe": "silent"}, Stage.ssh, "nothing speaks ssh", "systemctl status ssh", False),
    ({"probe": "host-key"}, Stage.ssh, "another ssh host key", "known_hosts", False),
    ({"probe": "host-key", "steady_s": 61}, Stage.ssh, "another ssh host key", "known_hosts", True),
    ({"probe": "refused"}, Stage.ssh, "refuses the ssh key", "vmlogs NAME", False),
    ({"probe": "refused", "serial": Serial(boot=Boot.booted, finished=True, complaint="DataSourceNone")}, Stage.ssh,
     "refuses the ssh key (cloud-init: DataSourceNone)", "vmlogs NAME", True),
    ({}, Stage.booted, "nothing was heard", "vm -G NAME", False),
])
def test_each_thing_seen_has_its_cause_and_its_advice(
    seen: dict[str, Any], stage: Stage, why: str, hint: str, hopeless: bool,
) -> None:
    cause = model.diagnose(Evidence(**seen), "ssh")
    assert cause.stage == stage
    assert why in cause.why
    assert hint in cause.hint
    assert cause.hopeless == hopeless


def test_a_booted_guest_without_agent_is_told_to_have_none() -> None:
    cause = model.diagnose(Evidence(serial=UP), "agent")
    assert (cause.stage, "no guest agent" in cause.why) == (Stage.agent, True)


@pytest.mark.parametrize(("seen", "goals"), [
    ({}, set()),
    ({"serial": UP}, {"booted"}),
    ({"agent": True}, {"booted", "agent"}),
    ({"dhcp": dhcp(DhcpState.given)}, {"address"}),
    ({"probe": "closed"}, {"address"}),
    ({"probe": "unreachable"}, set()),
    ({"probe": "ready"}, {"address", "ssh"}),
])
def test_a_goal_does_not_insist_on_earlier_stages(seen: dict[str, Any], goals: set[str]) -> None:
    assert {goal for goal in ("booted", "address", "ssh", "agent") if model.reached(Evidence(**seen), goal)} == goals


@pytest.mark.parametrize(("seen", "goal", "hint"), [
    ({}, "booted", "vmquery NAME; journalctl --unit u"),
    ({"probe": "closed"}, "ssh", "vmquery NAME; journalctl --unit u"),
    ({"alive": False}, "ssh", "vm NAME starts it; journalctl --unit u"),
    ({"agent": True}, "ssh", "cmcheck"),
    ({"probe": "host-key"}, "ssh", "if you changed its key, remove the known_hosts file in its folder"),
    ({"probe": "closed"}, "agent", "vm NAME -- systemctl status qemu-guest-agent"),
])
def test_without_a_console_no_advice_needs_one(seen: dict[str, Any], goal: str, hint: str) -> None:
    assert model.diagnose(Evidence(unit="u", **seen), goal).hint == hint
    assert model.reached(Evidence(unit="u", probe="closed"), "booted")


def test_progress_is_the_furthest_stage_seen() -> None:
    steps: list[dict[str, Any]] = [{}, {"firmware": Firmware.started}, {"serial": serial(Boot.system)}, {"agent": True},
                                   {"probe": "closed"}, {"probe": "silent"}, {"probe": "ready"}]
    assert [model.progress(Evidence(**step)) for step in steps] == list(Stage)[:7]


class Room:
    """Machines in a real store whose locks this process holds, and a host of fakes."""

    def __init__(self, world: layout.World, held: ExitStack) -> None:
        self.store = Store(world)
        self.held = held
        self.said: list[str] = []

    def machine(self, name: str, *, running: bool = True, address: str | None = "198.51.100.7") -> Machine:
        machine = Machine(
            name=Name(name), uuid="u", group="pf1", type=Name("web"), template=Name("debian"),
            shape=Shape(vcpus=1, ram_mib=512), disks=(), nics=(Nic(network=Name("default"), mac=MAC, address=address),),
            access=Access(user="root", key_of=Name("debian"), seeded=True), created="2025-11-20T22:00:00Z",
        )
        os.makedirs(self.store.folder(machine))
        os.makedirs(self.store.run_folder(machine))
        self.store.publish(machine)
        lock = take_lock(layout.lock(self.store.folder(machine)))
        if running:
            self.held.callback(os.close, lock)
        else:
            os.close(lock)
        return machine

    def log(self, folder: str, file: str, text: str) -> None:
        os.makedirs(folder, exist_ok=True)
        Path(folder, file).write_text(text, encoding="utf-8")

    def network(self) -> None:
        self.store.publish_network(Network(
            name=Name("default"), bridge="bridge0", address=IPv4Interface("198.51.100.1/24"), domain="cloudme",
            dhcp_first=IPv4Address("198.51.100.2"), dhcp_last=IPv4Address("198.51.100.9")))

    def wait(self, host: Host, *machines: Machine, goal: str = "ssh", timeout_s: float = 0.2) -> None:
        readiness.wait(host, self.store, machines, goal, timeout_s=timeout_s, say=self.said.append)

    def failure(self, host: Host, *machines: Machine, goal: str = "ssh", timeout_s: float = 0.2) -> CloudMeError:
        with pytest.raises(CloudMeError) as caught:
            self.wait(host, *machines, goal=goal, timeout_s=timeout_s)
        return caught.value


@pytest.fixture
def room(home: Path) -> Iterator[Room]:
    with ExitStack() as held:
        yield Room(layout.world(), held)


def host(probe: str = "unreachable", *, agent: bool = False, **more: Any) -> Host:
    shell = fakes.FakeShell(probes={f"web{number:02}": [probe] for number in range(30)})
    return fakes.host(**{"shell": shell, "agent": fakes.FakeAgent(answers=agent),
                         "qemu": fakes.FakeHypervisor(agent_open=agent), **more})


@pytest.mark.parametrize(("goal", "probe", "agent"), [
    ("ssh", "ready", False), ("address", "closed", False), ("booted", "", True), ("agent", "", True)])
def test_a_wait_returns_once_all_have_reached_the_goal(room: Room, goal: str, probe: str, agent: bool) -> None:
    room.wait(host(probe, agent=agent), room.machine("web00"), room.machine("web01"), goal=goal)
    assert {line.split()[0] for line in room.said} == {"web00", "web01"}


def test_a_wait_for_nobody_returns(room: Room) -> None:
    room.wait(host())


def test_ssh_is_tried_until_it_answers_and_progress_is_told(room: Room) -> None:
    script = ["unreachable", "closed", "silent", "ready"]
    room.wait(fakes.host(shell=fakes.FakeShell(probes={"web00": script}), qemu=fakes.FakeHypervisor(agent_open=False)),
              room.machine("web00"), timeout_s=30)
    assert room.said == ["web00 has its address", "web00 has its ssh port open", "web00 answers ssh"]


def test_a_wait_that_runs_out_names_each_machine_with_its_cause(room: Room) -> None:
    shell = fakes.FakeShell(probes={"web00": ["closed"], "web01": ["ready"], "web02": ["silent"]})
    some = [room.machine(name) for name in ("web00", "web01", "web02")]
    error = room.failure(fakes.host(shell=shell), *some)
    assert isinstance(error, TimedOut)
    assert [line.partition(":")[0] for line in error.message.splitlines()] == [
        "web00 did not reach 'port'", "web02 did not reach 'ssh'"]
    assert error.hint == "vmconsole NAME, then: systemctl status ssh"


def test_the_advice_for_one_machine_can_be_typed_as_it_is(room: Room) -> None:
    assert room.failure(host("refused"), room.machine("web00")).hint == "vmlogs web00"


def test_a_machine_whose_qemu_has_gone_ends_the_wait_at_once_with_its_last_words(room: Room) -> None:
    gone, other = room.machine("web00", running=False), room.machine("web01")
    room.log(room.store.run_folder(gone), "qemu.log", "qemu: warning: x\nqemu: cannot allocate memory\n")
    error = room.failure(host(), gone, other, timeout_s=3600)
    assert isinstance(error, PeerError)
    assert error.message == "web00 did not reach 'process': QEMU has gone: qemu: cannot allocate memory"
    assert error.hint == "vm web00 starts it"


def test_qemu_that_goes_during_the_wait_ends_it(room: Room) -> None:
    machine = room.machine("web00")
    threading.Timer(0.3, room.held.close).start()
    assert isinstance(room.failure(host(), machine, goal="booted", timeout_s=3600), PeerError)


@pytest.mark.parametrize(("file", "log", "why"), [
    ("console.log", "panic.log", "the kernel panicked: VFS: Unable to mount root fs"),
    ("console.log", "emergency.log", "emergency mode"),
    ("console.log", "initramfs.log", "/dev/vda does not exist"),
    ("firmware.log", "firmware-no-disk.log", "the firmware found no disk to boot"),
])
def test_a_guest_that_is_stuck_ends_the_wait_long_before_its_deadline(
    room: Room, file: str, log: str, why: str,
) -> None:
    machine = room.machine("web00")
    room.log(room.store.folder(machine), file, (DATA / log).read_text(encoding="utf-8"))
    error = room.failure(host(), machine, timeout_s=3600)
    assert isinstance(error, PeerError)
    assert why in error.message


def test_a_login_prompt_is_enough_for_booted(room: Room) -> None:
    machine = room.machine("web00")
    room.log(room.store.folder(machine), "console.log", (DATA / "debian.log").read_text(encoding="utf-8"))
    room.wait(host(), machine, goal="booted")


def dnsmasq(room: Room, *messages: str) -> None:
    now = time.strftime("%b %d %H:%M:%S")
    room.log(layout.own(room.store.world.network_run("default")), "dnsmasq.log",
             "".join(f"{now} dnsmasq-dhcp[1]: 7 {message}(bridge0) {MAC} \n" for message in ("x", *messages)))


@pytest.mark.parametrize(("messages", "why"), [
    ((), "no DHCP request was seen from it"),
    (("DHCPDISCOVER",), "its DHCP request was seen, but not answered"),
    (("DHCPDISCOVER", "DHCPOFFER"), "did not take it"),
    (("DHCPACK",), "nobody answers ARP for it"),
])
def test_a_wait_for_ssh_that_runs_out_asks_dhcp_and_arp(room: Room, messages: tuple[str, ...], why: str) -> None:
    machine = room.machine("web00")
    dnsmasq(room, *messages)
    room.network()
    serving = fakes.FakeRun(daemons={room.store.world.dnsmasq("default", "conf"): []})
    net = fakes.FakeNet(neighbours={"198.51.100.7": "failed"})
    assert why in room.failure(host(agent=True, net=net, run=serving), machine).message


@pytest.mark.parametrize(("fake", "why"), [
    ({"net": fakes.FakeNet(bridges=set())}, "the bridge bridge0 is gone"),
    ({}, "dnsmasq has ended"),
])
def test_a_network_that_is_down_is_told(room: Room, fake: dict[str, Any], why: str) -> None:
    room.network()
    error = room.failure(host(agent=True, **fake), room.machine("web00"))
    assert f"nobody answers DHCP there: {why}" in error.message
    assert error.hint == "cmnet start"


def test_an_address_given_by_dhcp_is_enough_for_address(room: Room) -> None:
    machine = room.machine("web00")
    dnsmasq(room, "DHCPACK")
    room.wait(host(), machine, goal="address")


def test_a_machine_without_an_address_of_ours_cannot_be_waited_for_by_ssh(room: Room) -> None:
    assert isinstance(room.failure(host(), room.machine("web00", address=None)), NotFound)


def test_an_error_in_one_watch_ends_the_wait(room: Room) -> None:
    class Broken(fakes.FakeShell):
        def probe(self, target: Target, *, timeout_s: float = 5) -> str:
            raise CloudMeError("broken")

    broken = dataclasses.replace(host(), shell=Broken())
    assert room.failure(broken, room.machine("web00"), timeout_s=3600).message == "broken"


def test_twenty_machines_are_waited_for_at_once(room: Room) -> None:
    room.wait(host("ready"), *[room.machine(f"web{number:02}") for number in range(20)])
    assert len(room.said) == 20


def test_vmwait_says_what_is_wrong_with_its_arguments(command: Any) -> None:
    nobody: Ended = command("vmwait", "web00")
    assert (nobody.status, "vmwait: no machine" in nobody.stderr) == (os.EX_NOINPUT, True)
    assert command("vmwait").status == os.EX_USAGE
    assert command("vmwait", "web00", "--for", "lunch").status == os.EX_USAGE
    assert command("vmwait", "-g", "templates").status == os.EX_USAGE
