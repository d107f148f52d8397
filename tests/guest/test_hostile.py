"""A guest whose root is an attacker: what it sends comes neither to a neighbour nor to the bridge, and its honest
traffic goes on. What it sends is made on the host; captures in the neighbour and at the bridge are the proof."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudme.model import identity
from tests.frames import Who, attacks, honest, lying_checksum, senders
from tests.guest.conftest import Cloud
from tests.net.bench import ETH_P_ALL
from tests.net.conftest import inside

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

FLOOD = 3000
CARD = 'next(name for _, name in socket.if_nameindex() if name != "lo")'

SEND = f"""
import base64, socket, struct
card = {CARD}
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((card, 0))
def send(frame):
    try:
        wire.send(frame)
    except OSError as error:
        if error.errno != 90:  # longer than the card takes
            print(error)
"""

CAPTURE = f"""
import base64, socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
wire.bind(({CARD}, 3))
wire.setsockopt(263, 1, __import__("struct").pack("iHH8x", socket.if_nametoindex({CARD}), 1, 0))  # promiscuous
wire.settimeout(120)
print("ready", flush=True)
while True:
    frame = wire.recv(1 << 16)
    print(base64.b64encode(frame).decode())
    if b"that is all" in frame:
        break
"""

REACHED = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 22), timeout=5) as it:
        print(it.recv(3).decode())
except OSError:
    print("no")
"""


def who(cloud: Cloud, name: str) -> Who:
    nic = json.loads(Path(cloud.world.machine_record(name)).read_text(encoding="utf-8"))["nics"][0]
    return Who(nic["mac"], nic["address"], own6=nic["address6"])


@pytest.fixture(scope="module")
def names(cloud: Cloud, warm: str) -> Iterator[list[str]]:
    """An attacker, its neighbour, one that is set apart."""
    pytest.importorskip("scapy")
    made: list[str] = []
    try:
        made += cloud.run("vminstantiate", "-n", warm, "-C", "2", "-g", "hostile", "--name", "h").split()
        made += cloud.run("vminstantiate", "-n", warm, "-g", "hostile", "--name", "apart", "--isolate",
                          "--net-rate", "50M").split()
        cloud.run("vmwait", *made)
        yield made
    finally:
        if made:
            cloud.run("vmstop", "-d", "-y", "--timeout", "1", *made)


@pytest.fixture(scope="module")
def people(cloud: Cloud, names: list[str]) -> tuple[Who, Who, Who]:
    network = cloud.machines()[names[0]]
    record = json.loads(Path(cloud.world.network_record("default")).read_text(encoding="utf-8"))
    assert network["state"] == "running"
    gateway = Who(identity.mac(f"bridge/{record['bridge']}"), record["address"].split("/")[0],
                  own6=record["address6"].split("/")[0])
    return who(cloud, names[0]), who(cloud, names[1]), gateway


@contextlib.contextmanager
def captured(cloud: Cloud, name: str) -> Iterator[list[bytes]]:
    """What the machine's card gets during the block, which ends with the word to end; then what the bridge got."""
    found: list[bytes] = []
    listener = cloud.popen("vm", name, "--", "python3 -", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    here = inside(cloud.world.namespace, bridge_socket)
    with listener, here:
        assert listener.stdin and listener.stdout
        listener.stdin.write(CAPTURE.encode())
        listener.stdin.close()
        assert listener.stdout.readline() == b"ready\n"
        yield found
        found += [base64.b64decode(line) for line in listener.stdout]
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = here.recvfrom(1 << 17)
                if kind != socket.PACKET_OUTGOING:
                    found.append(frame)


def bridge_socket() -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
    wire.bind(("bridge0", ETH_P_ALL))
    return wire


def send(cloud: Cloud, name: str, frames: list[bytes], last: bytes, more: str = "") -> None:
    lines = b"\n".join(base64.b64encode(frame) for frame in frames).decode()
    program = f"{SEND}\nfor line in '''{lines}'''.split(): send(base64.b64decode(line))\n{more}\n" \
              f"send(base64.b64decode({base64.b64encode(last).decode()!r}))\n"
    said = cloud.run("vm", name, "--", "python3 -", stdin=program.encode())
    assert said == "", said


def end(me: Who, neighbour: Who) -> bytes:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    return bytes(Ether(src=me.mac, dst=neighbour.mac) / IP(src=me.ip, dst=neighbour.ip) / UDP(
        sport=9, dport=9) / b"that is all")


def seen_as(frame: bytes) -> set[bytes]:
    """A frame, and what a socket shows of it: the first VLAN tag is taken off on the way."""
    return {frame, frame[:12] + frame[16:]} if frame[12:14] in (b"\x81\0", b"\x88\xa8") else {frame}


def table(cloud: Cloud) -> set[str]:
    listed = json.loads(cloud.inside_run(["bridge", "-j", "fdb", "show", "br", "bridge0"]))
    return {entry["mac"] for entry in listed if "permanent" not in (entry.get("state"), *entry.get("flags", []))}


def reached(cloud: Cloud, name: str, address: str) -> bool:
    return cloud.run("vm", name, "--", f"python3 - {address}", stdin=REACHED.encode()).strip() == "SSH"


def test_what_an_attacker_sends_comes_nowhere_and_what_is_honest_comes(
    cloud: Cloud, names: list[str], people: tuple[Who, Who, Who],
) -> None:
    me, neighbour, gateway = people
    routes = "ip -4 neigh show; ip -6 route show default; ip -6 -br addr"
    cloud.run("vm", names[1], "--", f"getent hosts {names[0]}.cloudme")
    bad = attacks(me, neighbour, gateway)
    good = honest(me, neighbour, gateway)
    with captured(cloud, names[1]) as found:
        everything = [frame for frames in (bad | good).values() for frame in frames]
        send(cloud, names[0], everything, end(me, neighbour))
    came = set(found)
    assert {name for name, frames in bad.items() if came & {one for frame in frames for one in seen_as(frame)}} == set()
    assert {name for name, frames in good.items() if not set(frames) <= came} == set()
    after = cloud.run("vm", names[1], "--", routes)
    assert f"{gateway.ip} dev" in after and gateway.mac in after
    assert "bad" not in after and f"{gateway.ip} dev eth0 lladdr {me.mac}" not in after, after


def test_its_honest_work_goes_on(cloud: Cloud, names: list[str], people: tuple[Who, Who, Who]) -> None:
    for name, other in ((names[0], people[1]), (names[1], people[0])):
        assert reached(cloud, name, other.ip)
        assert reached(cloud, name, other.ip6)
        assert reached(cloud, name, names[1] + ".cloudme")
        assert cloud.run("vm", name, "--", "hostname").strip() == name


def test_a_flood_of_macs_leaves_the_bridges_table_as_it_was(
    cloud: Cloud, names: list[str], people: tuple[Who, Who, Who],
) -> None:
    me, neighbour, _ = people
    flood = f"for n in range({FLOOD}): send(b'\\xff' * 6 + struct.pack('!HIH', 512, n, 2048) + bytes(46))"
    with captured(cloud, names[1]) as found:
        send(cloud, names[0], [], end(me, neighbour), flood)
    assert [frame for frame in found if frame[6:8] == b"\x02\0"] == []
    assert table(cloud) <= {who(cloud, name).mac for name in names}


def test_a_checksum_does_not_become_an_address(
    cloud: Cloud, names: list[str], people: tuple[Who, Who, Who],
) -> None:
    """Root in a guest asks its card to write a checksum over the sender's address (packet(7), PACKET_VNET_HDR)."""
    me, neighbour, gateway = people
    header, frame = lying_checksum(me, gateway.ip)
    more = f"wire.setsockopt(263, 15, 1); send(bytes.fromhex('{(header + frame).hex()}')); wire.setsockopt(263, 15, 0)"
    with captured(cloud, names[1]) as found:
        send(cloud, names[0], [], end(me, neighbour), more)
    mine = [one for one in found if one[6:12] == frame[6:12]]
    assert senders(mine) <= {me.ip}


def test_who_is_set_apart_reaches_no_neighbour_and_none_reaches_it(
    cloud: Cloud, names: list[str], people: tuple[Who, Who, Who],
) -> None:
    apart, (_, neighbour, gateway) = who(cloud, names[2]), people
    assert cloud.run("vm", names[2], "--", "hostname").strip() == names[2]
    looked_up = cloud.run("vm", names[2], "--", f"getent ahostsv4 {names[1]}.cloudme")
    assert looked_up.split()[0] == neighbour.ip
    for name, other in ((names[2], neighbour), (names[1], apart)):
        assert not reached(cloud, name, other.ip)
        assert not reached(cloud, name, other.ip6)
    frames = [frame for family in (honest, attacks) for sent in family(apart, neighbour, gateway).values()
              for frame in sent]
    with captured(cloud, names[1]) as found:
        send(cloud, names[2], frames, end(apart, neighbour))
        send(cloud, names[0], [], end(people[0], neighbour))
    at_the_neighbour = found[:1 + max(number for number, frame in enumerate(found) if b"that is all" in frame)]
    assert {frame[6:] for frame in frames} & {frame[6:] for frame in at_the_neighbour
                                              if frame[:6].hex(":") != gateway.mac} == set()


def test_rules_are_there_for_each_that_runs_and_go_with_it(cloud: Cloud, names: list[str]) -> None:
    def chains() -> list[str]:
        listed: dict[str, Any] = json.loads(cloud.inside_run(["nft", "-j", "list", "chains", "netdev"]))
        return sorted(entry["chain"]["name"] for entry in listed["nftables"] if "chain" in entry)

    stems = [f"cm{who(cloud, name).mac.replace(':', '')[-6:]}-0" for name in names]
    expected = sorted([*(f"in-{stem}" for stem in stems), f"out-{stems[2]}"])
    assert chains() == expected
    cloud.run("vmstop", names[2], "--timeout", "1")
    cloud.run("vmrestart", names[1], "--timeout", "20")
    cloud.run("vmwait", names[1])
    assert chains() == sorted(f"in-{stem}" for stem in stems[:2])
