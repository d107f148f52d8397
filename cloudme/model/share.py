"""A folder of the host's that a machine has, too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from posixpath import normpath

from cloudme.errors import AlreadyExists, UsageError
from cloudme.model.identity import short

TAG_MAX = 31
"""What virtio-9p takes (QEMU, hw/9pfs/9p.h: MAX_TAG_LEN with its NUL); virtiofs takes 36 bytes (VIRTIO 1.2, 5.11.4)."""
SHARES_MAX = 8
"""The functions of a PCI slot."""

FORM = "SOURCE:MOUNT[:ro,tag=TAG,owner=USER:GROUP,mode=0750]"
_LOGIN = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
_RULES = {
    "source": (r"/[^\0\n]*", "folder of the host, as /srv/data is"),
    "mount_point": (r"(?:/[A-Za-z0-9_@.+-]+)+", "place for a mount: letters, digits, _ @ . + -, and not /"),
    "tag": (rf"[A-Za-z0-9_.-]{{1,{TAG_MAX}}}", f"tag: letters, digits, _ . -, {TAG_MAX} at most"),
    "owner": (rf"{_LOGIN}(?::{_LOGIN})?", "owner, as root:kvm is"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A folder of the host's that a machine has at `mount_point`. tag: by which the guest finds it.

    owner, mode: of the folder, where it is missing and is made. owner: user, or user:group.
    """

    source: str
    mount_point: str
    tag: str
    readonly: bool = False
    owner: str | None = None
    mode: int | None = None

    def __post_init__(self) -> None:
        for field, (pattern, words) in _RULES.items():
            value = getattr(self, field)
            if value is not None and not re.fullmatch(pattern, value):
                raise UsageError(f"'{value}' is no {words}", hint=FORM)
        for path in (self.source, self.mount_point):
            if path != normpath(path):
                raise UsageError(f"'{path}' is not the shortest way to write that path", hint=normpath(path))

    @property
    def made(self) -> bool:
        """Whether the folder is made where it is missing: who says whose it is to be, wants that."""
        return self.owner is not None or self.mode is not None

    def __str__(self) -> str:
        return f"{self.source} at {self.mount_point}{' (read-only)' if self.readonly else ''}"


def tag_of(mount_point: str) -> str:
    """The tag of a share that was given none."""
    return short(re.sub("[^A-Za-z0-9_.-]", "-", mount_point.strip("/")), TAG_MAX)


def parsed(text: str, there: Iterable[Share] = ()) -> Share:
    """A share as it is given on command lines (FORM); its source may be relative to nothing. Raises UsageError.

    there: those that the machine has; one at the same mount point keeps its tag, where none is given.
    """
    source, _, rest = text.partition(":")
    mount_point, _, more = rest.partition(":")
    if not source or not mount_point:
        raise UsageError(f"'{text}' is no share", hint=FORM)
    words = dict(word.partition("=")[::2] for word in more.split(",") if word)
    if unknown := set(words) - {"ro", "tag", "owner", "mode"}:
        raise UsageError(f"a share has no '{sorted(unknown)[0]}'", hint=FORM)
    mode = words.get("mode")
    if mode is not None and not re.fullmatch("0?[0-7]{3}", mode):
        raise UsageError(f"'{mode}' is no mode of a folder", hint="as 0750")
    mount_point = mount_point.rstrip("/") or "/"
    tags = [one.tag for one in there if one.mount_point == mount_point]
    return Share(source=source, mount_point=mount_point, tag=words.get("tag") or [*tags, tag_of(mount_point)][0],
                 readonly="ro" in words, owner=words.get("owner"), mode=int(mode, 8) if mode else None)


def apart(shares: Sequence[Share]) -> tuple[Share, ...]:
    """The same. Raises AlreadyExists where two have one tag, or one mount point, UsageError where they are too many."""
    for field in ("tag", "mount_point"):
        seen = [getattr(share, field) for share in shares]
        if twice := [value for value in seen if seen.count(value) > 1]:
            raise AlreadyExists(f"two shares have '{twice[0]}'", hint=FORM)
    if len(shares) > SHARES_MAX:
        raise UsageError(f"{len(shares)} shares are too many", hint=f"{SHARES_MAX} at most")
    return tuple(shares)


def changed(shares: Sequence[Share], more: Iterable[Share], without: Iterable[str]) -> tuple[Share, ...]:
    """The shares with some more, each in the place of one at the same mount point, and without those that are named by
    tag or mount point. Raises UsageError where there is none of that name, and what `apart` raises."""
    more = list(more)
    kept = list(shares)
    for word in without:
        if not any(word in (share.tag, share.mount_point) for share in kept):
            there = ", ".join(share.tag for share in kept)
            raise UsageError(f"there is no share '{word}'", hint=f"there is: {there or 'none'}")
        kept = [share for share in kept if word not in (share.tag, share.mount_point)]
    new = {share.mount_point for share in more}
    return apart([*(share for share in kept if share.mount_point not in new), *more])
