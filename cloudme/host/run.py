"""The one module that starts programs.

argv lists, never a shell; a fixed environment; stdin is empty unless given; always a deadline; a failure is raised
once, with the command to repeat it. Children are in a process group of their own: Ctrl-C reaches us alone, and we end
or await them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from cloudme.errors import CommandFailed, HostUnavailable, MissingProgram, NotPermitted, StoreError, TimedOut
from cloudme.model.confinement import Confinement

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT = ("HOME", "TERM", "TMPDIR", "XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY",
        "http_proxy", "https_proxy", "no_proxy")
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "dnsmasq": "dnsmasq-base", "nft": "nftables",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap", "newgidmap": "uidmap", "ssh": "openssh-client", "mke2fs": "e2fsprogs", "sfdisk": "fdisk",
    "swtpm_setup": "swtpm-tools",
}
"""Which Debian package brings a program, where the names differ."""

TAIL_LINES = 5
END_S = 5
"""What a program gets to end after SIGTERM, before it is killed."""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every child: a search path, the C locale, and the few variables that must pass."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", **kept, **(more or {})}


@contextlib.contextmanager
def _heard() -> Iterator[int]:
    """A descriptor from which a byte comes for each SIGINT, SIGTERM and SIGHUP, its number; they do nothing else in the
    block. A SIGHUP that is ignored stays so (nohup(1))."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, lambda *_: None) for number in numbers
              if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
    woken = signal.set_wakeup_fd(writer)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


_limits = threading.Lock()
"""The limits that programs inherit are those of all our threads: while one has raised them, no other starts one that
outlives us."""


@contextlib.contextmanager
def _locking(size_bytes: int) -> Iterator[None]:
    """What is started in the block may lock that much memory. Raises NotPermitted."""
    with _limits:
        before = soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if not size_bytes or soft == resource.RLIM_INFINITY or soft >= size_bytes:
            yield
            return
        try:
            most = hard if hard == resource.RLIM_INFINITY else max(hard, size_bytes)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (size_bytes, most))
        except ValueError as error:  # Python's word for EPERM here
            raise NotPermitted(f"{size_bytes >> 20} MiB of memory cannot be locked: {error}",
                               hint="in a container: allow it CAP_SYS_RESOURCE, or a higher memlock") from error
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


class Programs:
    """Implements `Run`."""

    def __call__(
        self, argv: Sequence[str], *, timeout_s: float = 60, stdin: bytes = b"", env: Mapping[str, str] | None = None,
        fds: Sequence[int] = (), confinement: Confinement | None = None,
    ) -> str:
        process = self._start(argv, env, confinement, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, pass_fds=fds)
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                raise TimedOut(f"{argv[0]} took more than {timeout_s:g} s", hint=shlex.join(argv)) from None
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, 9)
                    process.wait()
        if process.returncode:
            output = stderr.decode(errors="replace").strip()
            words = "\n".join(output.splitlines()[-TAIL_LINES:]) or f"exit status {process.returncode}"
            if os.strerror(errno.ENOSPC) in words:
                raise StoreError(f"{os.path.basename(argv[0])}: {words}", hint="make room on that disk")
            raise CommandFailed(f"{os.path.basename(argv[0])} failed: {words}", hint=shlex.join(argv),
                                output=output)
        return stdout.decode(errors="replace")

    def spawn(
        self, argv: Sequence[str], *, stdout: str, fds: Sequence[int] = (), confinement: Confinement | None = None,
        locked_bytes: int = 0,
    ) -> int:
        with open(stdout, "ab", buffering=0) as output, _locking(locked_bytes):
            process = self._start(argv, None, confinement, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                  pass_fds=fds, start_new_session=True)
        process.returncode = 0  # it outlives us: Popen shall not warn that it was not awaited
        return process.pid

    def attend(
        self, argv: Sequence[str], *, confinement: Confinement, pins: bool, heed: Callable[[int], bool],
    ) -> int:
        count = 0
        if pins:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with _heard() as woken:
            process = self._start(argv, None, confinement, stdin=None)
            pidfd = os.pidfd_open(process.pid)
            try:
                while pidfd not in select.select([pidfd, woken], [], [])[0]:
                    for number in os.read(woken, 64):
                        if number == signal.SIGHUP and count:
                            continue  # a terminal that goes may say so several times, and nobody asks for more
                        count += 1
                        if not heed(count):
                            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            finally:
                os.close(pidfd)
                if process.poll() is None:
                    process.kill()
                status = process.wait()
        return 128 - status if status < 0 else status

    def become(self, argv: Sequence[str]) -> None:
        path = shutil.which(argv[0])
        if path is None:
            raise MissingProgram(argv[0], package=PACKAGES.get(argv[0]))
        os.execv(path, list(argv))  # noqa: S606  no shell is wanted

    def signal(self, pid_file: str, mark: str, number: int) -> bool:
        """The pidfd is opened before the command line is looked at: the signal cannot reach a successor of the pid."""
        try:
            with open(pid_file, encoding="ascii") as file:
                pid = int(file.read())
            pidfd = os.pidfd_open(pid)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return False
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if os.fsencode(mark) not in file.read():
                    return False
            signal.pidfd_send_signal(pidfd, number)
            if number in (signal.SIGTERM, signal.SIGKILL) and not select.select([pidfd], [], [], END_S)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], END_S)
            return True
        except (FileNotFoundError, ProcessLookupError):
            return False
        except PermissionError:
            raise NotPermitted(f"{mark} belongs to another user's process", hint="run it with sudo") from None
        finally:
            os.close(pidfd)

    def find(self, program: str) -> str | None:
        return shutil.which(program, path=PATH)

    def _start(
        self, argv: Sequence[str], env: Mapping[str, str] | None, confinement: Confinement | None, **how: object,
    ) -> subprocess.Popen[bytes]:
        path = self.find(argv[0]) if os.sep not in argv[0] else argv[0]
        if path is None:
            raise MissingProgram(argv[0], package=PACKAGES.get(argv[0]))
        group: dict[str, object] = {} if "start_new_session" in how else {"process_group": 0}

        def start() -> subprocess.Popen[bytes]:
            try:
                return subprocess.Popen([path, *argv[1:]], env=environment(env), **group, **how)  # type: ignore[call-overload,no-any-return]
            except OSError as error:
                raise HostUnavailable(f"cannot run {path}: {error.strerror}") from error

        if confinement is None:
            return start()
        from cloudme.host import confine

        return confine.within(confinement, start)
