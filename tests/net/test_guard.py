"""What a machine can send, and get, through its tap: frames are written to the tap as a hostile machine writes them,
and looked for where they would do harm: at a neighbour's tap, at the bridge, in the bridge's table."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cloudme import layout
from cloudme.errors import CommandFailed, HostUnavailable
from cloudme.host import guard, netlink, outside, run
from cloudme.model.launch import Guard, TapCard
from cloudme.model.machine import Nic
from cloudme.qemu import taps
from cloudme.store import take_lock
from tests.frames import Who, attacks, honest, lying_checksum, senders
from tests.net.bench import APART, GATEWAY, ME, NEIGHBOUR, Bench, own
from tests.net.conftest import Apart, Realm, inside
from tests.unit.test_vmrunning import machine as plain

pytestmark = pytest.mark.net

TUNSETOFFLOAD, TUN_F_CSUM = 0x400454D0, 1
"""linux/if_tun.h."""
FLOOD = 3000
NEVER_FORWARDED = ("LLDP", "pause")
"""802.1D, 7.12.6: a bridge keeps these for itself."""


Make = Callable[..., None]


@pytest.fixture
def on_a_bench(apart: Apart) -> Iterator[Make]:
    """Calls a function with a bench whose taps have these guards, in a namespace of their own."""
    pytest.importorskip("scapy")

    def there(function: Callable[[Bench], None], mine: Guard | None, theirs: Guard | None = None) -> None:
        def run_it() -> None:
            with contextlib.closing(Bench(mine, theirs)) as bench:
                function(bench)

        apart(run_it)

    yield there


def test_nothing_that_is_not_its_own_gets_through(on_a_bench: Make) -> None:
    def look(bench: Bench) -> None:
        assert bench.harm(attacks(ME, NEIGHBOUR, GATEWAY)) == set()
        assert bench.table() <= {ME.mac, NEIGHBOUR.mac}

    on_a_bench(look, own(ME), own(NEIGHBOUR))


def test_without_a_guard_all_of_it_would(on_a_bench: Make) -> None:
    def look(bench: Bench) -> None:
        frames = attacks(ME, NEIGHBOUR, GATEWAY)
        assert set(frames) - bench.harm(frames) == set(NEVER_FORWARDED)
        assert "02:00:00:00:be:ef" in bench.table()

    on_a_bench(look, None)


def test_what_is_honest_gets_through(on_a_bench: Make) -> None:
    def look(bench: Bench) -> None:
        for name, sent in honest(ME, NEIGHBOUR, GATEWAY).items():
            bench.me.send(*sent)
            got = bench.neighbour.got()
            assert [frame for frame in sent if frame not in got] == [], name

    on_a_bench(look, own(ME), own(NEIGHBOUR))


def test_a_flood_of_made_up_macs_does_not_reach_the_bridges_table(on_a_bench: Make) -> None:
    def flood(bench: Bench) -> None:
        frame = honest(ME, NEIGHBOUR, GATEWAY)["ARP question"][0]
        for number in range(FLOOD):
            bench.me.send(frame[:6] + b"\x02\0" + struct.pack("!I", number) + frame[12:])

    def guarded(bench: Bench) -> None:
        flood(bench)
        assert bench.table() <= {ME.mac, NEIGHBOUR.mac}
        assert not [got for got in bench.neighbour.got() if got[6:8] == b"\x02\0"]

    def open_to_all(bench: Bench) -> None:
        flood(bench)
        assert len(bench.table()) >= FLOOD

    on_a_bench(guarded, own(ME))
    on_a_bench(open_to_all, None)


def test_where_the_address_is_somebody_elses_choice_the_mac_and_the_roles_are_kept(on_a_bench: Make) -> None:
    """On a bridge of the LAN: who asks its DHCP server has any address but the gateway's."""
    unknown = Guard(others=(GATEWAY.ip,), offload=False)

    def look(bench: Bench) -> None:
        came = bench.harm(attacks(ME, NEIGHBOUR, GATEWAY))
        refused = ("MAC", "gateway's IPv4", "ARP answer for the gateway", "gratuitous ARP 1 for the gateway",
                   "gratuitous ARP 2 for the gateway", "DHCP", "RA ", "redirect", "VLAN", "802", "BPDU", "MLD",
                   "router")
        assert [name for name in came if any(word in name for word in refused)] == []
        others = honest(replace(ME, ip="10.210.0.77", own6="fd12:3456:789a:1::77"), NEIGHBOUR, GATEWAY)
        for name, sent in others.items():
            bench.me.send(*sent)
            assert set(sent) <= set(bench.neighbour.got()), name

    on_a_bench(look, unknown)


def test_who_is_set_apart_reaches_and_hears_the_gateway_alone(on_a_bench: Make) -> None:
    def look(bench: Bench) -> None:
        mine, theirs = honest(ME, NEIGHBOUR, GATEWAY), honest(NEIGHBOUR, ME, GATEWAY)
        said = {frame[6:] for sent in (mine | attacks(ME, NEIGHBOUR, GATEWAY)).values() for frame in sent}
        bench.me.send(*(b"\xff" * 6 + rest for rest in said), *itertools.chain(*mine.values()))
        assert said & {frame[6:] for frame in bench.neighbour.got()} == set()
        said = {frame[6:] for sent in theirs.values() for frame in sent}
        bench.neighbour.send(*(b"\xff" * 6 + rest for rest in said), *itertools.chain(*theirs.values()))
        from_gateway = honest(GATEWAY, ME, GATEWAY)["TCP"][0]
        bench.host.send(from_gateway)
        got = bench.me.got()
        assert from_gateway in got
        assert said & {frame[6:] for frame in got} == set()

    on_a_bench(look, replace(own(ME), apart=APART), own(NEIGHBOUR))


@pytest.mark.parametrize("locked", [True, False])
def test_what_is_set_apart_asks_the_gateway_and_neighbours_hear_no_word_of_it(on_a_bench: Make, locked: bool) -> None:
    def look(bench: Bench) -> None:
        to_gateway = honest(ME, GATEWAY, GATEWAY)
        for name in ("ARP question", "ARP announcement", "DHCP from 0.0.0.0", "TCP", "DNS", "ping", "RS",
                     f"ping from {ME.ip6}"):
            bench.host_got()
            (sent,) = to_gateway[name]
            bench.me.send(sent)
            assert bytes.fromhex(GATEWAY.mac.replace(":", "")) + sent[6:] in bench.host_got(), name
        assert not [frame for frame in bench.neighbour.got() if frame[6:12].hex(":") == ME.mac]

    on_a_bench(look, replace(own(ME), apart=APART, locked=locked))


def test_the_gateway_forwards_nothing_between_who_is_set_apart_and_a_neighbour(on_a_bench: Make) -> None:
    def look(bench: Bench, *, reached: bool) -> None:
        programs = run.Programs()
        bench.links.forward()
        programs(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
        for who in (ME, NEIGHBOUR):
            for address in (who.ip, who.ip6):
                programs(["ip", "neighbour", "replace", address, "lladdr", who.mac, "dev", "bridge0"])
        for name in ("TCP", f"TCP from {ME.ip6}"):
            bench.me.send(bytes.fromhex(GATEWAY.mac.replace(":", "")) + honest(ME, NEIGHBOUR, GATEWAY)[name][0][6:])
        for name in ("TCP", f"TCP from {NEIGHBOUR.ip6}"):
            there = honest(NEIGHBOUR, ME, GATEWAY)[name][0][6:]
            bench.neighbour.send(bytes.fromhex(GATEWAY.mac.replace(":", "")) + there)
        for port, address, address6 in ((bench.neighbour, ME.ip, ME.ip6), (bench.me, NEIGHBOUR.ip, NEIGHBOUR.ip6)):
            got = port.got()
            assert any(frame[12:14] == b"\x08\0" and frame[26:30] == socket.inet_aton(address)
                       for frame in got) == reached
            assert any(frame[12:14] == b"\x86\xdd" and frame[22:38] == socket.inet_pton(socket.AF_INET6, address6)
                       and frame[20] == socket.IPPROTO_TCP for frame in got) == reached

    on_a_bench(lambda bench: look(bench, reached=False), replace(own(ME), apart=APART), own(NEIGHBOUR))
    on_a_bench(lambda bench: look(bench, reached=True), own(ME), own(NEIGHBOUR))


@pytest.mark.parametrize("direction", ["sent", "got"])
def test_a_rate_is_kept_both_ways(on_a_bench: Make, direction: str) -> None:
    """Two million bits a second, where frames for about sixteen times as much are sent as fast as it goes: the bucket
    holds what is good for a second."""
    counts = []

    def look(bench: Bench) -> None:
        ends = (bench.me, bench.neighbour) if direction == "sent" else (bench.neighbour, bench.me)
        source, target = (ME, NEIGHBOUR) if direction == "sent" else (NEIGHBOUR, ME)
        frame = honest(source, target, GATEWAY)["TCP"][0] + bytes(1400)
        came = 0
        for _ in range(3000):
            ends[0].send(frame)
            came += len([got for got in ends[1].got() if len(got) > 1000])
        counts.append(came)

    on_a_bench(look, replace(own(ME), rate=2_000_000), own(NEIGHBOUR))
    on_a_bench(look, own(ME), own(NEIGHBOUR))
    limited, unlimited = counts
    assert unlimited == 3000
    assert 0 < limited < unlimited / 2


def test_no_checksum_makes_an_address_of_the_gateways(on_a_bench: Make) -> None:
    header, frame = lying_checksum(ME, GATEWAY.ip)

    def ours(bench: Bench) -> None:
        """Whoever takes packets without their checksums gets what the guard saw, and so does the gateway."""
        fcntl.ioctl(bench.neighbour.fd, TUNSETOFFLOAD, TUN_F_CSUM)
        bench.me.send(frame, header=header)
        assert senders(bench.neighbour.got()) == senders(bench.host_got()) == {ME.ip}

    def a_lan(bench: Bench) -> None:
        """On a bridge of somebody else's nobody knows who takes what: machines make their checksums themselves."""
        for sent in (header + frame, frame):
            bench.me.send(sent)
            assert senders(bench.neighbour.got()) <= {ME.ip}
        assert bench.me.header == b""

    on_a_bench(ours, own(ME), own(NEIGHBOUR))
    on_a_bench(a_lan, replace(own(ME), offload=False))


def chains() -> list[tuple[int, str]]:
    return guard._chains()


def test_a_guard_is_there_before_the_port_and_goes_with_it(on_a_bench: Make) -> None:
    def look(bench: Bench) -> None:
        there = sorted(link.name for link in bench.links.links().values() if link.kind == "tun")
        assert there == ["cm000105-0", "cm000106-0"]
        assert [tap for _, tap in chains()] == ["cm000105-0", "cm000105-0", "cm000106-0"]
        os.close(bench.me.fd)
        bench.me = bench.port(ME, replace(own(ME)))  # the same name again
        assert [tap for _, tap in chains()] == ["cm000106-0", "cm000105-0"]
        assert bench.harm({"as before": attacks(ME, NEIGHBOUR, GATEWAY)["gratuitous ARP 2 for the gateway"]}) == set()
        os.close(bench.me.fd)
        bench.me = bench.port(ME, None)
        assert [tap for _, tap in chains()] == ["cm000106-0"]
        assert bench.harm({"open": attacks(ME, NEIGHBOUR, GATEWAY)["gratuitous ARP 2 for the gateway"]}) == {"open"}
        bench.links.sweep()
        assert [tap for _, tap in chains()] == ["cm000106-0"]
        os.close(bench.neighbour.fd)
        bench.neighbour = bench.port(NEIGHBOUR, None)
        bench.links.sweep()
        assert "cloudme-guard" not in run.Programs()(["nft", "list", "tables"])
        bench.links.sweep()

    on_a_bench(look, replace(own(ME), apart=APART), own(NEIGHBOUR))


def test_the_leftovers_of_others_go_with_the_next_start(on_a_bench: Make) -> None:
    def look(bench: Bench) -> None:
        os.close(bench.me.fd)
        later = bench.port(replace(ME, mac="52:54:00:00:01:07"), own(ME))
        assert [tap for _, tap in chains()] == ["cm000106-0", "cm000107-0"]
        bench.me = later

    on_a_bench(look, own(ME), own(NEIGHBOUR))


def test_many_are_guarded_at_once_and_each_by_its_own_rules(on_a_bench: Make) -> None:
    def look(bench: Bench) -> None:
        everybody = [Who(f"52:54:00:00:02:{number:02x}", f"10.210.0.{number}") for number in range(20, 40)]
        for _ in range(3):  # the chains of one round are the leftovers of the next
            with ThreadPoolExecutor(max_workers=20) as pool:
                ports = list(pool.map(lambda who: bench.port(who, own(who)), everybody))
            assert len(chains()) == 22
            bench.neighbour.got()
            for who, port in zip(everybody, ports, strict=True):
                port.send(*honest(who, NEIGHBOUR, GATEWAY)["ARP announcement"])
                port.send(*honest(replace(who, ip="10.210.0.99"), NEIGHBOUR, GATEWAY)["ARP announcement"])
                assert len([frame for frame in bench.neighbour.got() if frame[12:14] == b"\x08\x06"]) == 1
            for port in ports:
                os.close(port.fd)

    on_a_bench(look, own(ME), own(NEIGHBOUR))


def test_a_guard_is_renewed_while_the_machine_runs(on_a_bench: Make) -> None:
    def look(bench: Bench) -> None:
        moved = replace(ME, ip="10.210.0.55")
        both = {"old": honest(ME, NEIGHBOUR, GATEWAY)["TCP"], "new": honest(moved, NEIGHBOUR, GATEWAY)["TCP"]}

        def passing() -> set[str]:
            found = set()
            for name, sent in both.items():
                bench.me.send(*sent)
                if set(sent) <= set(bench.neighbour.got()):
                    found.add(name)
            return found

        assert passing() == {"old"}
        for addresses, pass_ in (((ME.ip, moved.ip), {"old", "new"}), ((moved.ip,), {"new"})):
            its = replace(own(ME), addresses=addresses)
            bench.links.guard([TapCard("net0", "bridge0", ME.mac, its)])
            assert passing() == pass_
        bench.links.guard([TapCard("net0", "bridge0", "52:54:00:99:99:99", own(ME))])  # nobody's

    on_a_bench(look, own(ME), own(NEIGHBOUR))


def test_a_tap_that_cannot_be_guarded_is_not_made(apart: Apart) -> None:
    class Refused(run.Programs):
        def __call__(self, *_: object, **more: object) -> str:
            raise CommandFailed("nft failed: Operation not supported", output="Operation not supported")

    def look() -> None:
        links = netlink.Links(outside.Here(Refused()), Refused())
        links.add_bridge("bridge0", GATEWAY.mac)
        with pytest.raises(HostUnavailable, match="cannot be guarded: Operation not supported") as told:
            links.taps([TapCard("net0", "bridge0", ME.mac, own(ME))])
        assert "--no-guard" in str(told.value.hint)
        assert set(links.links()) == {"lo", "bridge0"}

    apart(look)


def test_guards_that_were_flushed_are_told_of_and_restored(realm: Realm) -> None:
    store = realm.store
    network = store.network()
    assert network
    made = dataclasses.replace(
        plain("web00"), isolate=True, net_rate=10**6, nics=(Nic(network=network.name, mac=ME.mac, address=ME.ip),))
    os.makedirs(store.folder(made))
    store.publish(made)
    links = netlink.Links(outside.Here(run.Programs()), run.Programs())
    cards = taps.of(made, {network.name: network})
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, take_lock(layout.lock(store.folder(made))))
        for fd in inside(realm.namespace, lambda: links.taps(cards)):
            undo.callback(os.close, fd)
        before = realm.run("nft", "list", "table", "netdev", "cloudme-guard")
        assert "chain in-cm000105-0" in before and "chain out-cm000105-0" in before
        realm.cmnet("status")
        half = ("nft", "delete", "chain", "netdev", "cloudme-guard", "out-cm000105-0")
        for flush, begin in ((("nft", "flush", "ruleset"), "start"), (half, "reload")):
            realm.run(*flush)
            assert "cmnet start would guard web00's tap on bridge0" in realm.cmnet("status", status=78).stdout
            assert "web00" in realm.cmnet(begin, "--dry-run").stdout
            realm.cmnet(begin)
            assert realm.run("nft", "list", "table", "netdev", "cloudme-guard") == before
            realm.cmnet("status")
