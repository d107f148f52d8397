"""One ssh connection: greeted, negotiated, its host key checked, logged in. No type of paramiko leaves host/.

paramiko costs more than all the rest of a command: this module is imported when there is a guest to talk to.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections.abc import Iterator

import paramiko

from cloudme.errors import CloudMeError, NotFound, PeerError, StoreError, TimedOut
from cloudme.host import sockets
from cloudme.model.ports import Outside, Target
from cloudme.store import write_atomic

LOST = (paramiko.SSHException, EOFError)
"""What paramiko raises where the connection does not do what was asked."""

GREETING = b"SSH-"
"""RFC 4253, 4.2."""

KNOCK_S = 0.2
"""The first patience; the longest is that of the caller, who may be far away."""

SILENCE_S = 30
"""A guest that acknowledges nothing for so long has gone: killed, or cut off (tcp(7))."""

RSA = {"rsa-sha2-512", "rsa-sha2-256"}
"""The algorithms of an 'ssh-rsa' key (RFC 8332)."""

quiet = logging.getLogger("paramiko")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False


class NotReady(Exception):
    """How far a try came: a word of `Shell.probe`."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


@contextlib.contextmanager
def connected(target: Target, timeout_s: float, outside: Outside | None = None) -> Iterator[paramiko.Transport]:
    """A transport that is logged in, and closed at the end. Raises what `Shell` says.

    outside: who makes sockets there, for a target that is reached so.
    """
    try:
        transport = connect(target, timeout_s, outside)
    except NotReady as short:
        raise _explained(target, short.stage) from None
    try:
        yield transport
    except LOST as error:
        raise PeerError(f"the connection to '{target.name}' was lost: {error}", hint=f"vmlogs {target.name}") from error
    finally:
        close(transport)


def close(transport: paramiko.Transport) -> None:
    """Return when its thread has ended: shutting the socket wakes it."""
    with contextlib.suppress(OSError):
        transport.sock.shutdown(socket.SHUT_RDWR)
    transport.close()
    if transport.is_alive():
        transport.join()


def connect(
    target: Target, timeout_s: float, outside: Outside | None = None,
    turn: contextlib.AbstractContextManager[object] | None = None,
) -> paramiko.Transport:
    """Raises NotReady, and NotFound and StoreError for our own key and known_hosts files.

    turn:  entered once the guest has greeted, for the arithmetic; waiting for it is not counted.
    """
    deadline = time.monotonic() + timeout_s
    key, pinned = _key(target.key_file), _pinned(target.known_hosts_file)
    peer = _greeted(target, deadline, outside if target.outside else None)
    left = max(deadline - time.monotonic(), 0.1)
    with turn or contextlib.nullcontext():
        return _logged_in(target, peer, key, pinned, left)


def _logged_in(
    target: Target, peer: socket.socket, key: paramiko.PKey, pinned: set[tuple[str, str]], left: float
) -> paramiko.Transport:
    transport = paramiko.Transport(peer)
    try:
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = left
        found = _negotiated(transport, {kind for kind, _ in pinned}, left)
        if pinned and found not in pinned:
            raise NotReady("host-key")
        _log_in(transport, target.user, key)
        if not pinned:  # only now: before cloud-init is done, the guest may show a key that it will throw away
            where = target.address if target.port == 22 else f"[{target.address}]:{target.port}"
            write_atomic(target.known_hosts_file, f"{target.name},{where} {' '.join(found)}\n", mode=0o600)
    except BaseException:
        close(transport)
        raise
    return transport


def _greeted(target: Target, deadline: float, outside: Outside | None) -> socket.socket:
    """A TCP connection on which an sshd has spoken: a port can be open long before one listens behind it."""
    peer = _reached(target, deadline, outside)
    try:
        for level, option, value in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_S // 2),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_S // 6),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000),
        ) if target.vsock is None else ():
            peer.setsockopt(level, option, value)
        poller = select.poll()
        poller.register(peer, select.POLLIN)
        if not poller.poll(max(deadline - time.monotonic(), 0) * 1000) or peer.recv(4, socket.MSG_PEEK) != GREETING:
            raise NotReady("silent")
    except OSError:
        peer.close()
        raise NotReady("silent") from None
    except BaseException:
        peer.close()
        raise
    return peer


def _reached(target: Target, deadline: float, outside: Outside | None) -> socket.socket:
    """Knocks anew before the kernel would (after 1, 3, 7 s): a guest may have come up between."""
    patience_s = KNOCK_S
    while True:
        left = deadline - time.monotonic()
        try:
            if target.vsock is not None:
                return sockets.by_vsock(target.vsock, target.port, max(left, 0.1))
            return sockets.connected(target.address, target.port, max(min(patience_s, left), 0.1), outside)
        except ConnectionRefusedError:
            raise NotReady("closed") from None
        except OSError:
            if left <= patience_s or target.vsock is not None:
                raise NotReady("unreachable") from None
        patience_s *= 1.5


def _negotiated(transport: paramiko.Transport, kinds: set[str], timeout_s: float) -> tuple[str, str]:
    """Agree on ciphers, asking for a host key of the pinned kinds first; returns kind and key as in known_hosts."""
    wanted = kinds | (RSA if "ssh-rsa" in kinds else set())
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in wanted)
    try:
        transport.start_client(timeout=timeout_s)
        key = transport.get_remote_server_key()
    except (*LOST, OSError):
        raise NotReady("silent") from None
    return key.get_name(), key.get_base64()


def _log_in(transport: paramiko.Transport, user: str, key: paramiko.PKey) -> None:
    try:
        more = transport.auth_publickey(user, key)
    except paramiko.AuthenticationException:
        raise NotReady("refused") from None
    except (*LOST, OSError):
        raise NotReady("silent") from None
    if more:  # the guest wants a second factor, too
        raise NotReady("refused")


def _key(path: str) -> paramiko.PKey:
    """One of ours, which is Ed25519, or a user's own, of any kind; one behind a passphrase has to be in the agent."""
    if not path:
        raise NotFound("nobody here knows its ssh key", hint="attrs.access.key of its definition, then vmunit generate")
    said = ""
    for kind in (paramiko.Ed25519Key, paramiko.RSAKey, paramiko.ECDSAKey):
        try:
            return kind.from_private_key_file(path)
        except FileNotFoundError:
            raise NotFound(f"there is no ssh key {path}") from None
        except paramiko.PasswordRequiredException:
            return _held(path)
        except (paramiko.SSHException, ValueError) as error:
            said = said or str(error)
    raise StoreError(f"{path}: {said}")


def _held(path: str) -> paramiko.PKey:
    """The key that the agent (ssh-agent(1)) has for the public one beside `path`."""
    with contextlib.suppress(OSError), open(f"{path}.pub", encoding="utf-8") as file:
        wanted = file.read().split()[1]
        for key in paramiko.Agent().get_keys():
            if key.get_base64() == wanted:
                return key
    raise StoreError(f"the ssh key {path} has a passphrase", hint=f"ssh-add {path}")


def _pinned(path: str) -> set[tuple[str, str]]:
    """The keys in a known_hosts file (sshd(8)) of one machine; none where it is missing.

    The names in it are not looked at: the file is the machine's own.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    except FileNotFoundError:
        return set()
    keys = {(line[1], line[2]) for line in lines if len(line) >= 3}
    if not keys:
        raise StoreError(f"there is no host key in {path}", hint="remove it, and the next key met is pinned")
    return keys


def _explained(target: Target, stage: str) -> CloudMeError:
    name, where = f"'{target.name}'", f"{target.address} port {target.port}"
    why = f"vmwait {target.name} tells why"
    if stage == "host-key":
        return PeerError(f"the host key of {name} is not the one in {target.known_hosts_file}",
                         hint="another machine has its address, or it has a new key; if so, remove that file")
    if stage == "refused":
        return PeerError(f"{name} refuses user '{target.user}' with the key {target.key_file}", hint=why)
    said = {"unreachable": "cannot be reached at", "closed": "has no sshd that listens at",
            "silent": "does not speak ssh at"}
    return TimedOut(f"{name} {said[stage]} {where}", hint=why)
