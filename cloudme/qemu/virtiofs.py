"""virtiofsd's command line: that of QEMU's own (until 7.2), and that of the one which took its place."""

from __future__ import annotations

from dataclasses import dataclass

from cloudme.model.launch import Folder

PATHS = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")
"""Debian 13, Fedora; Arch; QEMU's own in Debian 12. It is in nobody's search path."""

DROPPED = "-mknod:-setfcap"
"""Of what virtiofsd keeps by itself: nobody makes devices of the host's from a guest."""


ALL = 0xFFFFFFFF
"""So many users of a guest are all the one who shares (virtiofsd 1.12 or newer): he cannot give files to others."""


def is_old(version: str) -> bool:
    """Whether that is what QEMU's own one prints for --version."""
    return "FUSE kernel interface" in version


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One that is there. old: it is QEMU's own. uid, gid: of who starts it."""

    path: str
    old: bool
    uid: int
    gid: int

    @property
    def root(self) -> bool:
        return self.uid == 0

    @property
    def serves(self) -> bool:
        """QEMU's own one has to be root: it always makes itself a sandbox, and drops groups."""
        return self.root or not self.old

    def argv(self, folder: Folder, fd: int) -> list[str]:
        """fd: of the listening socket.

        Root's one is in a chroot, beside Landlock, under which nobody may mount: a sandbox of namespaces is not to be
        had. Without Landlock the chroot remains. Files have no handles: those would need CAP_DAC_READ_SEARCH.
        """
        if self.old:
            return [self.path, "-f", f"--fd={fd}", "--rlimit-nofile=0", "-o", f"source={_escaped(folder.source)}",
                    "-o", "sandbox=chroot", "-o", f"modcaps={DROPPED}", "-o", "cache=auto", "-o", "flock",
                    "-o", "log_level=info"]
        readonly = ["--readonly"] if folder.readonly else []
        own = [f"--translate-{what}=squash-guest:0:{number}:{ALL}" for what, number in (("uid", self.uid),
                                                                                        ("gid", self.gid))]
        return [self.path, f"--fd={fd}", f"--shared-dir={folder.source}", "--cache=auto", "--log-level=warn",
                "--inode-file-handles=never", f"--sandbox={'chroot' if self.root else 'none'}",
                *([f"--modcaps={DROPPED}"] if self.root else own), *readonly]


def _escaped(value: str) -> str:
    """A comma ends an option, unless a backslash is before it (libfuse, fuse_opt.c)."""
    return value.replace("\\", "\\\\").replace(",", "\\,")
