"""What vmcreate does with its options: gather, call the operations in their order, print."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from cloudme import cli, seed
from cloudme.cli import images
from cloudme.errors import AlreadyExists, UsageError
from cloudme.layout import text_template
from cloudme.model import units
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Machine, Template
from cloudme.model.names import ImageName, Name
from cloudme.model.ports import Host
from cloudme.model.steps import Transaction
from cloudme.operations import networks, playbooks, power, readiness, templates
from cloudme.store import Store


def make(args: argparse.Namespace, name: Name) -> None:
    """A new template: made, prepared, powered off; or its installation started."""
    store, settings = cli.store(args), cli.settings(args)
    own = ("pubkey_path", "ip", "network", "user", "user_data", "vnc_port", "group", "type")
    if given := [option for option in own if getattr(args, option) is not None]:
        raise UsageError(f"--{given[0].replace('_', '-')} goes with --machine")
    if args.os and not _pulled(args, store, name):
        print(f"make template {name} from {args.os}")
        return
    wanted = _wanted(args, name, settings)
    if os.path.exists(store.world.template_record(name)) and templates.same(store.template(name), wanted):
        cli.teller(args)(f"template '{name}' is there already")
        print(name)
        return
    host = cli.host(args)
    boots = bool(wanted.iso) or not args.no_prepare
    network = store.network_of(settings)
    if boots:
        power.check(host, store, [], [network])
    with cli.transaction(args, host) as transaction:
        template = templates.make(transaction, store, wanted, default_disk_bytes=settings.disk_bytes)
        if transaction.dry_run:
            return
        if wanted.iso:
            machine = store.boot_template(template, network)
            networks.refresh_names(host, store)
            power.start(transaction, store, [machine], settings)
        elif boots:
            _prepare(args, transaction, store, template, settings)
    if wanted.iso:
        _tell_installation(args, store, template)
    print(name)


def _pulled(args: argparse.Namespace, store: Store, name: Name) -> bool:
    """Have the image of --os here, and make it that of --image; False where this is only a dry run for want of it."""
    args.image = ImageName(args.os)
    if os.path.exists(store.world.image_record(args.image)):
        return True
    if os.path.exists(store.world.template_record(name)):
        raise AlreadyExists(f"there is a template '{name}' already, on another image", hint=f"vmcreate --remove {name}")
    images.pulled(args, args.image)
    return not args.dry_run


def _prepare(
    args: argparse.Namespace, transaction: Transaction, store: Store, template: Template, settings: Settings,
    *, change: Callable[[Machine], None] = lambda machine: None,
) -> None:
    """Start a template, await it, let `change` act on it, bring it to the standard, power it off."""
    host, say = transaction.host, cli.teller(args)
    network = store.network_of(settings)
    machine = store.boot_template(template, network)
    networks.refresh_names(host, store)  # its address may have been somebody else's: dnsmasq has to forget that
    if template.access.seeded:
        seed.write(host, store, machine, {network.name: network})
    cli.tell_accelerator(args, host, settings)
    power.start(transaction, store, [machine], settings)
    readiness.wait(host, store, [machine], "ssh", timeout_s=settings.boot_timeout_s, say=say)
    change(machine)
    if template.access.seeded:  # one that was installed by hand has nobody to make its keys anew
        templates.prepare(host, store, machine, say)
    power.stop(host, store, [machine], timeout_s=settings.stop_timeout_s, say=say)
    templates.finish(store, template)
    networks.refresh_names(host, store)


def upgrade(args: argparse.Namespace, store: Store, host: Host, name: Name) -> None:
    """vmupgrade."""
    settings = cli.settings(args)
    template = store.template(name)
    templates.without_clones(store, template)
    playbook = text_template("upgrade.yml", store.world.config)
    host.playbooks.check([playbook])
    power.check(host, store, [], [store.network_of(settings)])

    def change(machine: Machine) -> None:
        reports = playbooks.configure(host, store, [machine], {machine.type: playbook}, cli.teller(args))
        if failure := playbooks.failed(reports):
            raise failure

    with cli.transaction(args, host) as transaction:
        transaction.say(f"upgrade the packages of template {name}")
        if not transaction.dry_run:
            transaction.apply([templates.Safeguard(store, template)])
            _prepare(args, transaction, store, template, settings, change=change)
            templates.settle(host, store, template)
    print(name)


def _wanted(args: argparse.Namespace, name: Name, settings: Settings) -> templates.Wanted:
    if not args.image and not args.iso:
        raise UsageError("an image or an ISO is wanted",
                         hint="vmcreate -n NAME --os debian, --image IMAGE, or -i FILE.iso")
    is_file = bool(args.image) and not args.os and (os.sep in args.image or os.path.isfile(args.image))
    return templates.Wanted(
        name=name, iso=args.iso, file=args.image if is_file else None,
        image=ImageName(args.image) if args.image and not is_file else None,
        vcpus=settings.vcpus if args.cpus is None else args.cpus,
        ram_mib=units.ram_mib(args.memory) if args.memory else settings.ram_mib,
        disk_bytes=units.disk_bytes(args.disk) if args.disk else None,
    )


def _tell_installation(args: argparse.Namespace, store: Store, template: Template) -> None:
    say = cli.teller(args)
    say(f"the installation runs; root's authorized_keys wants {store.world.template(template.name)}/ssh_key.pub")
    if args.graphic:
        cli.open_display(args, os.path.join(store.world.template_run(template.name), "vnc"))
    else:
        say(f"its display: vm -g templates -G {template.name}   its serial console: "
            f"vmconsole -g templates {template.name}")


def adjust(args: argparse.Namespace, name: Name) -> None:
    """vmcreate -a."""
    if args.memory is None and args.cpus is None and args.disk is None:
        raise UsageError("nothing to adjust", hint="-m, -c, -d")
    store = cli.store(args)
    with cli.transaction(args, cli.host(args)) as transaction:
        templates.adjust(
            transaction, store, name, vcpus=args.cpus,
            ram_mib=units.ram_mib(args.memory) if args.memory else None,
            disk_bytes=units.disk_bytes(args.disk) if args.disk else None,
        )
    print(name)


def remove(args: argparse.Namespace, name: Name) -> None:
    """vmcreate --remove."""
    store = cli.store(args)
    templates.without_clones(store, store.template(name))
    if not args.dry_run:
        cli.confirmed(f"Remove template '{name}' and its disk?", yes=args.yes)
    with cli.transaction(args, cli.host(args)) as transaction:
        templates.remove(transaction, store, name)
