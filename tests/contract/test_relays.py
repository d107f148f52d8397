"""The life of relays: the port's promises, by the fake and the real ones; where they can listen."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path
from typing import Literal

import pytest

from cloudme import index
from cloudme.errors import Busy, CloudMeError, NotPermitted, PeerError, UsageError
from cloudme.host import holders, relays, sockets
from cloudme.host.run import Programs
from cloudme.model import identity
from tests import fakes
from tests.relaying import Qemu, connect, echo, free, qemu, server

__all__ = ["qemu"]


def await_free(lock: str) -> None:
    """Return when nobody holds it."""
    with open(lock, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, index.WRITE_LOCK)


def test_it_ends_with_the_machine_and_its_port_is_free_then(qemu: Qemu) -> None:
    with server(echo) as port:
        where = qemu.serve(port)
        with connect(where) as open_one:
            open_one.sendall(b"x")
            assert open_one.recv(1) == b"x"
            qemu.process.send_signal(signal.SIGKILL)
            assert open_one.recv(1) == b""
        await_free(str(qemu.folder / "way0"))
        os.close(sockets.listen("tcp", *where))
    assert Path(qemu.way(1, name="way0").log).read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_it_is_ended_and_its_port_is_free_then(qemu: Qemu, protocol: Literal["tcp", "udp"]) -> None:
    where = qemu.serve(free(protocol), protocol)
    with pytest.raises(Busy, match=rf"{protocol} port {where[1]} of 127.0.0.1 is taken: vmexpose \(pid \d+\)"):
        sockets.listen(protocol, *where)
    relays.Relays(Programs()).end(str(qemu.folder / "way0"))
    os.close(sockets.listen(protocol, *where))
    relays.Relays(Programs()).end(str(qemu.folder / "way0"))


def test_it_has_no_right_and_is_nobody(qemu: Qemu) -> None:
    qemu.serve(free())
    with holders.holder(str(qemu.folder / "way0")):
        pid = holders.open_by(str(qemu.folder / "way0"))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")] == [0, 0, 0, 0]
    assert status["NoNewPrivs"].strip() == "1"
    uid = identity.uid("relay") if os.geteuid() == 0 else os.geteuid()
    assert status["Uid"].split() == status["Gid"].split() == [str(uid)] * 4


def test_it_has_nothing_open_but_what_it_needs(qemu: Qemu) -> None:
    stray = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(stray, False)
    qemu.serve(free())
    pid = qemu.pid()
    targets = sorted(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    os.close(stray)
    assert [target for target in targets if not target.startswith("socket:")] == sorted([
        "/dev/null", *[str(qemu.folder / "way0.log")] * 2, str(qemu.folder / "way0"), "anon_inode:[pidfd]",
        "anon_inode:[eventpoll]"])
    assert len(targets) == 7


@pytest.fixture(params=["fake", "real"])
def port(request: pytest.FixtureRequest) -> fakes.FakeRelays | relays.Relays:
    return fakes.FakeRelays(refuse={666}) if request.param == "fake" else relays.Relays(Programs())


def test_the_port_keeps_its_promises(
    port: fakes.FakeRelays | relays.Relays, qemu: Qemu, monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = sockets.listen("tcp", "127.0.0.1", free())
    way = qemu.way(1)
    port.start(way, listener)
    assert index.held(way.lock)
    with pytest.raises(Busy):
        port.start(way, listener)
    port.end(way.lock)
    port.end(way.lock)
    assert not index.held(way.lock)
    monkeypatch.setattr(relays, "PROGRAM", os.devnull)  # ours never ends at once by itself
    with pytest.raises(PeerError, match="ended"):
        port.start(qemu.way(666), listener)
    qemu.process.kill()
    qemu.process.wait()
    with pytest.raises(Busy, match="has stopped"):
        port.start(way, listener)
    os.close(listener)


# where it listens

@pytest.mark.parametrize(("address", "error", "words"), [
    ("192.0.2.1", UsageError, "no address 192.0.2.1"), ("2001:db8::1", UsageError, "no address 2001:db8::1"),
    ("::ffff:127.0.0.1", UsageError, "no address"),
])
def test_where_nobody_can_listen_is_said(address: str, error: type[CloudMeError], words: str) -> None:
    with pytest.raises(error, match=words):
        sockets.listen("tcp", address, free())


def test_a_port_for_root_is_not_for_others() -> None:
    """In a child: it gives its capability away (capabilities(7), by becoming somebody else)."""
    if os.geteuid() == 0:
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            try:
                sockets.listen("tcp", "127.0.0.1", 81)
            except NotPermitted as error:
                os._exit(77 if "from 1024 on" in error.message else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 77
    else:
        with pytest.raises(NotPermitted, match="is for root"):
            sockets.listen("tcp", "127.0.0.1", 81)
