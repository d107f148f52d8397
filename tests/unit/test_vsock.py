"""Machines with a vsock: what the host lacks is said before anything starts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest

from cloudme import claim, layout
from cloudme.errors import AlreadyExists, CloudMeError, HostUnavailable, NotFound, NotPermitted
from cloudme.model.machine import Machine
from cloudme.operations import forks, power
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import Ended
from tests.unit.test_vm import made
from tests.unit.test_vmrunning import machine

DEVICE = "/dev/vhost-vsock"


@pytest.fixture
def web00(store: Store) -> Machine:
    it = dataclasses.replace(machine("web00"), vsock_cid=42, nics=(), disks=())
    os.makedirs(store.world.machine("web00"))
    store.publish(it)
    return it


@pytest.mark.parametrize(("files", "error"), [
    (fakes.FakeFiles(), HostUnavailable),
    (fakes.FakeFiles({DEVICE: ""}, closed={DEVICE}), NotPermitted),
])
def test_a_host_without_it_starts_nothing(
    store: Store, web00: Machine, files: fakes.FakeFiles, error: type[CloudMeError],
) -> None:
    with pytest.raises(error, match=DEVICE):
        power.check(fakes.host(files=files), store, [web00], [])
    power.check(fakes.host(files=fakes.FakeFiles({DEVICE: ""})), store, [web00], [])


def test_a_number_is_one_machines(store: Store, web00: Machine) -> None:
    claim.check_cid(store, 43)
    claim.check_cid(store, None)
    with pytest.raises(AlreadyExists, match="web00"):
        claim.check_cid(store, 42)


def test_it_is_reached_without_an_address(store: Store, web00: Machine) -> None:
    assert (store.target(web00, vsock=True).vsock, web00.address) == (42, None)
    with pytest.raises(NotFound, match="no address"):
        store.target(web00)
    with pytest.raises(NotFound, match="no vsock"):
        store.target(machine("web01"), vsock=True)


@pytest.mark.parametrize(("devices", "refused"), [(["vsock"], True), (["nic0", ""], False)])
def test_who_was_booted_with_one_is_not_forked(
    store: Store, web00: Machine, devices: list[str], refused: bool,
) -> None:
    host = fakes.host()
    assert isinstance(host.qemu, fakes.FakeHypervisor)
    host.qemu.told.answers = {
        "query-chardev": [{"label": label, "frontend-open": True} for label in ("agent", "identity")],
        "query-version": {"qemu": {"major": 7, "minor": 2, "micro": 22}},
        "query-pci": [{"devices": [{"qdev_id": device} for device in devices]}],
    }
    held = take_lock(layout.lock(store.folder(web00)))
    try:
        if refused:
            with pytest.raises(HostUnavailable, match="with a vsock"):
                forks.check(host, store, web00)
        else:
            forks.check(host, store, web00)
    finally:
        os.close(held)


def test_it_goes_with_no_other_way_than_ssh(command: Callable[..., Ended]) -> None:
    assert command("vm", "--vsock", "--proxy", "web00").status == 64
    assert command("vm", "--vsock", "--graphic", "web00").status == 64


def test_vm_says_what_is_missing(command: Callable[..., Ended]) -> None:
    if os.path.exists(DEVICE):
        pytest.skip("this host has vhost-vsock")
    it = made("web00")
    assert command("vm", "--vsock", "web00").status == 66
    Store(layout.world()).publish(dataclasses.replace(it, vsock_cid=42))
    assert command("vm", "--vsock", "web00").status == 69
