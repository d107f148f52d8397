"""The seed of one machine in its folder: host key, pinned known_hosts, cloud-init disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from cloudme.formats import seeds
from cloudme.model.machine import Machine
from cloudme.model.names import Name
from cloudme.model.network import Network
from cloudme.model.ports import Host
from cloudme.qemu.launch import SEED
from cloudme.store import Store, reported, write_atomic

HOST_KEY = "host_key"
PUBLIC_KEY, USER_DATA = "pubkey.pub", "user-data"
"""Of a machine that stands on no template: who may come in, and what its user wants of cloud-init."""


def write(host: Host, store: Store, machine: Machine, networks: Mapping[Name, Network]) -> None:
    """Make a host key, unless the machine has one, pin it, and write the seed disk, all 0600.

    networks: those that the machine has cards in; where it has none yet, the one that will name it.
    Promise:  the machine's host key never changes once it is made.
    """
    folder = store.folder(machine)
    private_file, public_file = os.path.join(folder, HOST_KEY), os.path.join(folder, f"{HOST_KEY}.pub")
    with reported(folder):
        if not os.path.exists(public_file):
            private, public = host.keys.ed25519(f"{machine.name}.{seeds.domain(machine, networks)}")
            write_atomic(private_file, private, mode=0o600)
            write_atomic(public_file, public + "\n")
        keys = seeds.Keys(
            public=_text(_public_key(store, machine)),
            host_private=_text(private_file), host_public=_text(public_file),
        )
        write_atomic(os.path.join(folder, "known_hosts"), seeds.known_hosts(machine, keys.host_public))
        files = seeds.files(machine, keys, networks, config=store.world.config, more=own(store, machine, USER_DATA),
                            said=int(host.now()))
        host.iso.write(os.path.join(folder, SEED), seeds.LABEL, files)


def remove(store: Store, machine: Machine) -> None:
    """Forget a seed and the host key that it pinned."""
    for file in (SEED, HOST_KEY, f"{HOST_KEY}.pub", "known_hosts"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(store.folder(machine), file))


def _public_key(store: Store, machine: Machine) -> str:
    if machine.access.key_of is None:
        return os.path.join(store.folder(machine), PUBLIC_KEY)
    return os.path.join(store.world.template(machine.access.key_of), "ssh_key.pub")


def own(store: Store, machine: Machine, file: str) -> str:
    """The text of PUBLIC_KEY or USER_DATA, '' where the machine has none."""
    with contextlib.suppress(FileNotFoundError):
        return _text(os.path.join(store.folder(machine), file))
    return ""


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
