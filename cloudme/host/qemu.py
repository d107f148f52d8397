"""QEMU processes: started with every descriptor they need, found by their lock, stopped through monitor and pidfd."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from cloudme import kvm, layout
from cloudme.errors import Busy, CloudMeError, HostUnavailable, NotFound, PeerError, TimedOut
from cloudme.host import confine, handover, holders, qmp, sharing, shutdown
from cloudme.host.holders import holder, last_words, pidfd_of
from cloudme.model import identity
from cloudme.model.confinement import Confinement
from cloudme.model.groups import Groups
from cloudme.model.launch import Folder, Launch
from cloudme.model.ports import Monitor, Net, Power, Run
from cloudme.qemu import files
from cloudme.qemu import launch as rendering
from cloudme.store import reported, take_lock

GREETING_S = 2
"""How long a living monitor may take to greet: it does in a millisecond."""

LOCKS_BYTES_S, RECEIVED_BYTES = 1 << 30, 1 << 16
"""How fast memory is locked at least: a host gives, and clears, several GiB of it in a second."""

QUIT_S = 5
"""What QEMU gets to obey `quit`: it flushes its disks first."""


class Qemu:
    """Implements `Hypervisor`."""

    def __init__(self, run: Run, net: Net, groups: Groups | None = None, *, confined: bool = True) -> None:
        """groups: None where machines stay in ours. confined: False only to see what it costs."""
        self._run = run
        self._net = net
        self._groups = groups
        self._confined = confined
        self._shares = sharing.Shares(run, confined=confined)

    def start(self, launch: Launch, *, timeout_s: float = 30) -> None:
        binary = self._run.find(launch.binary)
        if binary is None:
            raise HostUnavailable(f"the program '{launch.binary}' is not installed", hint="apt install qemu-system-x86")
        with contextlib.ExitStack() as living:
            self._start(launch, binary, living, timeout_s)

    def _start(self, launch: Launch, binary: str, living: contextlib.ExitStack, timeout_s: float) -> None:
        """living: holds, while we wait, what is needed to end it."""
        with contextlib.ExitStack() as mine, reported(launch.run_folder):
            lock = take_lock(launch.lock)
            mine.callback(os.close, lock)
            _check_frozen(launch)
            if not launch.incoming:  # a fork is received in the name of its source, which runs
                self.bury(launch.uuid)
            os.utime(lock)  # its time is that of the start: vmrunning's `since`
            os.makedirs(launch.run_folder, 0o700, exist_ok=True)
            launch = handover.chained(launch)
            uid = _own_uid(launch) if self._confined else None
            fds = {}
            for listener in (*launch.monitors, *launch.chardevs):
                fds[listener.role] = mine.enter_context(_listening(listener.path))
            for tap, fd in zip(launch.taps, self._net.taps(launch.taps), strict=True):
                fds[tap.netdev] = fd
                mine.callback(os.close, fd)
            handover.begin_logs(launch)
            fds |= handover.opened(launch, uid, mine) | self._shares.opened(launch, mine)
            ours, its = handover.word(living)
            pid = self._run.spawn(rendering.argv(launch, fds), stdout=launch.output, fds=[lock, *fds.values(), its],
                                  locked_bytes=launch.locked_bytes,
                                  confinement=_confinement(launch, uid, binary) if self._confined else None)
            pidfd = living.enter_context(pidfd_of(pid))  # once it is awaited its number may be another's
        try:
            handover.tell(ours, f"{pid}\n")
            if launch.group and self._groups:
                self._groups.hold(launch.group, pid)
            if launch.pid_file:
                handover.link(launch.pid_file, f"/proc/{pid}/fd/{its}")
            self._await_greeting(launch, pid, pidfd, timeout_s)
            self._shares.check(launch)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                self._await({Power(name="", lock=launch.lock, monitor=""): pidfd}, QUIT_S)
            raise

    def _await_greeting(self, launch: Launch, pid: int, pidfd: int, timeout_s: float) -> None:
        """The socket listens since before QEMU lived: this connects at once and waits for QEMU's first word.

        QEMU greets before it has made its devices, and answers when it has: with devices of the host's that may fail,
        and it takes a while, since all of its memory is locked; with shares it fails where a virtiofsd has ended.
        """
        timeout_s += launch.locked_bytes / LOCKS_BYTES_S
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(launch.monitors[-1].path)
            heard = _heard(client, pidfd, timeout_s)
            if heard and (launch.locked_bytes or launch.folders):
                with contextlib.suppress(BrokenPipeError):
                    client.sendall(b'{"execute": "qmp_capabilities"}\n')
                heard = _heard(client, pidfd, timeout_s)
            if heard:
                return
            if heard is None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        if heard is None:
            raise TimedOut(f"QEMU for '{launch.name}' did not greet within {timeout_s:g} s")
        self._shares.check(launch)
        raise PeerError(f"QEMU for '{launch.name}' ended: {last_words(launch.output)}", hint=f"see {launch.output}")

    @contextlib.contextmanager
    def monitor(self, path: str, *, timeout_s: float = 5) -> Iterator[Monitor]:
        with qmp.connected(path, timeout_s) as monitor:
            yield monitor

    def stop(self, machines: Sequence[Power], *, timeout_s: float, say: Callable[[str], None]) -> None:
        with contextlib.ExitStack() as mine:
            living = {machine: fd for machine in machines if (fd := mine.enter_context(holder(machine.lock))) >= 0}
            self._tell(living, "system_powerdown", say)
            self._await(living, timeout_s)
            for machine in living:
                say(f"{machine.name} does not heed the power button: ending it")
            self._tell(living, "quit", say)
            self._await(living, QUIT_S)
            for machine, fd in living.items():
                say(f"{machine.name} does not answer: killing it")
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            self._await(living, QUIT_S)
            if living:
                raise TimedOut(f"{', '.join(m.name for m in living)} cannot be killed", hint="see dmesg")

    def shut_down(self, machines: Sequence[Power], *, timeout_s: float, say: Callable[[str], None]) -> list[str]:
        return shutdown.all_down(machines, timeout_s=timeout_s, say=say)

    def _tell(self, machines: Collection[Power], command: str, say: Callable[[str], None]) -> None:
        """Send one command to all at once; one that is stuck delays nobody."""
        def tell(machine: Power) -> None:
            try:
                with self.monitor(machine.monitor, timeout_s=GREETING_S) as monitor:
                    monitor.execute(command)
            except (NotFound, PeerError):
                pass  # it went by itself
            except CloudMeError as error:
                say(f"{machine.name}: {error.message}")

        if machines:
            with ThreadPoolExecutor(max_workers=min(len(machines), 16)) as pool:
                list(pool.map(tell, list(machines)))

    def _await(self, living: dict[Power, int], timeout_s: float) -> None:
        """Wait until all have ended; those that have are dropped from `living`."""
        deadline = time.monotonic() + timeout_s
        while living and (left := deadline - time.monotonic()) > 0:
            poller = select.poll()
            for fd in living.values():
                poller.register(fd, select.POLLIN)
            ended = {fd for fd, _ in poller.poll(left * 1000)}
            for machine in [machine for machine, fd in living.items() if fd in ended]:
                del living[machine]

    def bury(self, uuid: str) -> None:
        uid = identity.uid(uuid)
        if not confine.foreign(uid):
            return
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if os.stat(f"/proc/{entry}").st_uid != uid:
                    continue
                with pidfd_of(int(entry)) as pidfd:
                    if os.stat(f"/proc/{entry}").st_uid == uid:
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        select.select([pidfd], [], [], QUIT_S)

    def lives(self, uid: int) -> bool:
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if os.stat(f"/proc/{entry}").st_uid == uid and not _ended(int(entry)):
                    return True
        return False

    def kill(self, lock: str) -> None:
        holders.kill(lock, QUIT_S)

    def pids(self, locks: Sequence[str]) -> Mapping[str, int]:
        return holders.all_of(locks)

    @cache  # noqa: B019  one adapter a process
    def version(self) -> str:
        return self._run([rendering.BINARY, "--version"]).split()[3]

    def virtiofs(self) -> bool:
        return self._shares.program() is not None

    @contextlib.contextmanager
    def serve(self, folder: Folder) -> Iterator[int]:
        with contextlib.ExitStack() as mine:
            yield self._shares.served(folder, mine)

    @cache  # noqa: B019
    def kvm_usable(self) -> bool:
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return False
        if os.uname().machine != "x86_64":
            return True
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return any(line.startswith("flags") and {"vmx", "svm"} & set(line.split()) for line in file)


def _heard(client: socket.socket, pidfd: int, timeout_s: float) -> bool | None:
    """Whether a line came from QEMU's monitor; False where QEMU ended, None where nothing came in time."""
    poller = select.poll()
    for fd in (client.fileno(), pidfd):
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while ready := {fd for fd, _ in poller.poll(max(0, deadline - time.monotonic()) * 1000)}:
        said = b""
        with contextlib.suppress(ConnectionResetError):
            said = client.recv(RECEIVED_BYTES) if client.fileno() in ready else b""
        if not said or said.endswith(b"\n"):
            return bool(said)
    return None


def _ended(pid: int) -> bool:
    """Whether nothing is left of a process but its exit status, which its parent has not asked for."""
    with pidfd_of(pid) as pidfd:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(0))


def _own_uid(launch: Launch) -> int | None:
    """As whom QEMU runs: where root starts it a user of the machine's own, else the one who does."""
    uid = identity.uid(launch.uuid)
    return uid if confine.foreign(uid) else None


def _confinement(launch: Launch, uid: int | None, binary: str) -> Confinement:
    groups = kvm.groups() if uid is not None and launch.accel == "kvm" else ()
    return Confinement(uid=uid, groups=groups, reach=files.reach(launch, binary, layout.own(launch.run_folder)))


def _check_frozen(launch: Launch) -> None:
    """Called with the lock held: a disk without write permission is frozen, and root could write to it all the same.

    Raises:  Busy.
    """
    for part in launch.parts:
        if part.props.get("driver") == "file" and part.option == "blockdev" and not part.props.get("read-only"):
            path = part.props["filename"]
            if os.path.exists(path) and not os.stat(path).st_mode & stat.S_IWUSR:
                raise Busy(f"the disk of '{launch.name}' is frozen: it was cloned")


@contextlib.contextmanager
def _listening(path: str) -> Iterator[int]:
    """A listening socket at `path`, 0600 by the folder; a stale file is replaced: the lock says that nobody lives."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)
        yield listener.fileno()
