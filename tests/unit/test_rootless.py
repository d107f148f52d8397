"""Realms of ordinary users, where the kernel says no."""

from __future__ import annotations

import errno
import os

import pytest

from cloudme.errors import CloudMeError, HostUnavailable, NotPermitted
from cloudme.host import realm, rootless


@pytest.mark.parametrize(("number", "kind", "said"), [
    (errno.EPERM, NotPermitted, "does not let ordinary users have namespaces"),
    (errno.ENOSPC, NotPermitted, "does not let ordinary users have namespaces"),
    (errno.EINVAL, HostUnavailable, "cannot make or enter namespaces: Invalid argument"),
])
def test_who_may_have_no_namespaces_is_told_what_would_permit_it(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[CloudMeError], said: str,
) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(realm, "call", refused)  # libc's calls: this kernel need not say no
    with pytest.raises(kind, match=said) as told:
        rootless.fresh()
    if kind is NotPermitted:
        assert "user.max_user_namespaces" in str(told.value.hint)
