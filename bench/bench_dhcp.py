"""How evenly DHCP serves many who ask at once: 50 clients on one network, the slowest against the first.

Each client is a card of its own behind a cable to the bridge, with the four packets of RFC 2131; root is needed.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import time

from bench.worlds import World, world
from cloudme import layout
from cloudme.host import realm
from cloudme.model.names import Name
from cloudme.store import Store

CLIENTS, ROUNDS, PATIENCE_S = 50, 5, 10.0
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
COOKIE = b"\x63\x82\x53\x63"


def packet(kind: int, mac: bytes, options: bytes = b"") -> bytes:
    """RFC 2131, 2: BOOTREQUEST on Ethernet, answers to all (flags), the client known by its card."""
    head = bytes((1, 1, 6, 0)) + mac[2:] + bytes((0, 0, 0x80, 0)) + bytes(16) + mac.ljust(16, b"\0") + bytes(192)
    return head + COOKIE + bytes((53, 1, kind)) + options + b"\xff"


def answered(data: bytes) -> tuple[bytes, int, bytes, bytes]:
    """(mac, kind, address, server)."""
    kind, server, at = 0, b"", 240
    while at < len(data) and data[at] != 0xFF:
        code, length = data[at], data[at + 1]
        value = data[at + 2:at + 2 + length]
        kind, server = (value[0] if code == 53 else kind), (value if code == 54 else server)
        at += 2 + length
    return data[28:34], kind, data[16:20], server


def once(device: str, macs: list[bytes]) -> list[float]:
    """Seconds that each client waited for its ACK, all having asked at the same moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as clients:
        clients.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        clients.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        clients.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        clients.bind(("", 68))
        asked: dict[bytes, float] = {}
        served: dict[bytes, float] = {}
        for mac in macs:
            asked[mac] = time.perf_counter()
            clients.sendto(packet(DISCOVER, mac), ("255.255.255.255", 67))
        deadline = time.perf_counter() + PATIENCE_S
        while len(served) < len(macs) and (left := deadline - time.perf_counter()) > 0:
            if not select.select([clients], [], [], left)[0]:
                break
            mac, kind, address, server = answered(clients.recv(2048))
            if kind == OFFER:
                options = b"\x32\x04" + address + b"\x36\x04" + server
                clients.sendto(packet(REQUEST, mac, options), ("255.255.255.255", 67))
            elif kind == ACK:
                served[mac] = time.perf_counter() - asked[mac]
    return sorted(served.values())


def run(it: World) -> None:
    store = Store(layout.World(data=it.home, run=f"{it.home}/run", config=f"{it.home}/config", realm=it.realm))
    network = store.network()
    assert network
    macs = [bytes((0x52, 0x54, 0, 1, 0, number)) for number in range(CLIENTS)]
    for number, mac in enumerate(macs):
        store.reserve(network, Name(f"client{number:02}"), mac.hex(":"), f"10.210.0.{number + 2}")
    realm.fresh()  # this process, from here on
    it.outside(f"ip link add cable type veth peer name clients netns {os.getpid()}; "
               "ip link set cable master bridge0 up")
    realm.up("clients")
    time.sleep(1)  # a bridge learns of a new cable
    rounds = [once("clients", macs) for _ in range(ROUNDS + 1)][1:]
    whole = [one for one in rounds if len(one) == CLIENTS]
    ratios = sorted(one[-1] / one[0] for one in whole)
    slowest, first = (statistics.median(one[at] for one in whole) for at in (-1, 0))
    print(f"\n{CLIENTS} DHCP clients at once: the slowest : the first ({len(whole)} of {ROUNDS} rounds served all)\n"
          f"  {slowest * 1000:.2f} ms : {first * 1000:.2f} ms; ratio "
          f"{statistics.median(ratios):.2f}, p90 {ratios[-1]:.2f} (wanted at most 2)", flush=True)


if __name__ == "__main__":
    if os.geteuid() != 0:
        raise SystemExit("this makes a realm: root is needed")
    with world() as it:
        run(it)
