"""Who may use KVM."""

from __future__ import annotations

import os

from cloudme.errors import HostUnavailable


def groups(path: str = "/dev/kvm") -> tuple[int, ...]:
    """The group that a user must be in to use KVM; none where all may. Never root's: HostUnavailable."""
    state = os.stat(path)
    if state.st_mode & 0o006 == 0o006:
        return ()
    if state.st_gid == 0 or state.st_mode & 0o060 != 0o060:
        raise HostUnavailable(f"nobody but root may use {path}", hint=f"chgrp kvm {path}; chmod 660 {path}")
    return (state.st_gid,)
