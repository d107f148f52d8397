"""What vmcreate --machine and vmupdate do with their options."""

from __future__ import annotations

import argparse
import os
from typing import Any

from cloudme import cli, forwards
from cloudme.cli import images, selection, sharing
from cloudme.errors import CommandFailed, NotFound, SpecError, UsageError
from cloudme.formats import groupfiles, seeds
from cloudme.model import limits, openports, units
from cloudme.model.devices import pci_address
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import CMDLINE, INITRD, KERNEL, Board, Kernel, Limits, Machine, Shape
from cloudme.model.names import DEFAULT_GROUP, DEFAULT_TYPE, TEMPLATES, ImageName, Name
from cloudme.model.network import DEFAULT_NETWORK, address_range
from cloudme.model.ports import Host
from cloudme.operations import machines, networks

KEY_TYPES = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519@", "sk-ecdsa-")
"""How a line of authorized_keys begins that is a key and nothing else (sshd(8))."""


def make(args: argparse.Namespace, name: Name) -> None:
    """A machine of its own; it is not started."""
    store, settings = cli.store(args), cli.settings(args)
    wanted = _wanted(args, name, settings)
    if args.os and not os.path.exists(store.world.image_record(wanted.image)):
        images.pulled(args, wanted.image)
        if args.dry_run:
            print(f"make machine {name} on it")
            return
    host = cli.host(args)
    sharing.tell_kind(args, host, wanted.shares)
    with cli.transaction(args, host) as transaction:
        machines.make(transaction, store, wanted, settings)
        if transaction.dry_run:
            return
        networks.refresh_names(host, store)
    print(name)


def _wanted(args: argparse.Namespace, name: Name, settings: Settings) -> machines.Wanted:
    if not (args.os or args.image) or not args.pubkey_path:
        raise UsageError("an image and a public key are wanted",
                         hint=f"vmcreate {name} --machine --os debian --pubkey-path ~/.ssh/id_ed25519.pub --ip ADDRESS")
    if (group := Name(args.group or DEFAULT_GROUP, "name of a group")) == TEMPLATES:
        raise UsageError(f"the group '{TEMPLATES}' is reserved")
    return machines.Wanted(
        name=name, image=ImageName(args.os or args.image), group=group, user=args.user,
        type=Name(args.type or DEFAULT_TYPE, "name of a type"), address=one_address(args.ip),
        public_key=public_key(args.pubkey_path), key_file=private_key(args.pubkey_path),
        networks=groupfiles.networks(args.network or [DEFAULT_NETWORK]),
        user_data=user_data(cli.host_outside(args), args.user_data) if args.user_data else "",
        shape=Shape(vcpus=settings.vcpus if args.cpus is None else args.cpus,
                    ram_mib=units.ram_mib(args.memory) if args.memory else settings.ram_mib),
        disk_bytes=units.disk_bytes(args.disk) if args.disk else settings.disk_bytes,
        vnc_port=args.vnc_port, isolate=args.isolate,
        net_rate=units.bit_rate(args.net_rate) if args.net_rate else None,
        limits=limits.changed(Limits(), args.limit) if args.limit else Limits(),
        ports=openports.read(args.ports) if args.ports else None,
        board=args.machine_type or Board.q35, vsock_cid=args.vsock_cid, **_kernel(args),
        shares=sharing.wanted(args.share),
        devices=tuple(map(pci_address, args.device or ())),
    )


def _kernel(args: argparse.Namespace) -> dict[str, Any]:
    """What is booted, and the files. Raises UsageError, NotFound."""
    files = {name: path for name, path in ((KERNEL, args.kernel), (INITRD, args.initrd)) if path}
    if not args.kernel:
        if args.initrd or args.cmdline is not None:
            raise UsageError("--initrd and --cmdline go with --kernel")
        return {"kernel": None}
    for path in files.values():
        if not os.path.isfile(path):
            raise NotFound(f"there is no file '{path}'")
    return {"kernel": Kernel(cmdline=args.cmdline or CMDLINE, initrd=bool(args.initrd)), "files": files}


def update(args: argparse.Namespace) -> None:
    """vmupdate."""
    store, settings, host = cli.store(args), cli.settings(args), cli.host(args)
    machine = store.machine(selection.named(store, cli.named(args) or ""))
    if not (args.pubkey_path or args.ip or args.user_data):
        raise UsageError("nothing to update",
                         hint="--limit; --ports; --share; --device; or --pubkey-path, --ip, --user-data")
    if args.now and args.user_data:
        raise UsageError("user-data is read at a boot, not now", hint=f"vmrestart {machine.name}")
    if args.now and args.pubkey_path and not os.path.exists(private_key(args.pubkey_path)):
        raise NotFound(f"there is no {private_key(args.pubkey_path)}, the private key that would prove it",
                       hint="without --now it takes effect at the next boot")
    change = machines.Change(
        public_key=public_key(args.pubkey_path) if args.pubkey_path else None,
        key_file=private_key(args.pubkey_path) if args.pubkey_path else None, address=one_address(args.ip),
        user_data=user_data(host, args.user_data) if args.user_data else None)
    new = machines.changed(host, store, machine, change, settings)
    if new is None:
        cli.teller(args)(f"'{machine.name}' is so already")
        return
    runs = store.is_running(machine)
    target = store.target(machine) if args.now and runs else None
    with cli.transaction(args, host) as transaction:
        step = machines.Update(store, machine, new, change, settings)
        transaction.apply([step])
        if target:
            transaction.apply([machines.Apply(step, store.network_of(settings, new.nics[0].network), target)])
            if new.address != machine.address:
                transaction.apply(forwards.opening(store, [new], before=machine))
        if transaction.dry_run:
            return
        networks.refresh_names(host, store)
    _tell(args, new, runs)


def _tell(args: argparse.Namespace, machine: Machine, runs: bool) -> None:
    if runs and not args.now:
        cli.teller(args)(f"'{machine.name}' runs, and learns of it when it boots: vmrestart {machine.name}")
    print(machine.name)


def one_address(text: str | None) -> str | None:
    """Raises UsageError for what is none, and for a range."""
    if text is None:
        return None
    found = address_range(text)
    if len(found) > 1:
        raise UsageError(f"one address is wanted, '{text}' are {len(found)}")
    return found[0]


def public_key(path: str) -> str:
    """The text of a file of public keys, a line each. Raises NotFound, SpecError."""
    text = _file(path)
    if "PRIVATE KEY" in text:
        raise SpecError([f"{path}: this is a private key, it stays where it is"], hint=f"--pubkey-path {path}.pub")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    wrong = [f"{path}:{number}: this is no public key of OpenSSH" for number, line in enumerate(lines, 1)
             if not line.startswith(KEY_TYPES) or len(line.split()) < 2]
    if wrong or not lines:
        raise SpecError(wrong or [f"{path}: no public key is in it"], hint="ssh-keygen -t ed25519 makes a pair")
    return "\n".join(lines) + "\n"


def private_key(path: str) -> str:
    """The private key that belongs to a public one, where ssh-keygen(1) puts it."""
    return os.path.abspath(path.removesuffix(".pub"))


def user_data(host: Host, path: str) -> str:
    """The text of a file of user-data that cloud-init would take, as far as can be known here. Raises SpecError."""
    text = _file(path)
    if seeds.kind(text, path) == "cloud-config":
        _check_yaml(path, text)
        if host.run.find("cloud-init"):
            try:
                host.run(["cloud-init", "schema", "--config-file", os.path.abspath(path)])
            except CommandFailed as error:
                raise SpecError([f"{path}: {line}" for line in error.message.splitlines()]) from error
    return text


def _check_yaml(path: str, text: str) -> None:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError([f"{path}:{line}: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise SpecError([f"{path}: {error}"]) from error
    if not isinstance(found, dict | None):
        raise SpecError([f"{path}: a cloud-config is a mapping of keys"])


def _file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError([f"{path}: not UTF-8 text"]) from error
