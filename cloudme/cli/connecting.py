"""What vmconnect and vmdisconnect do with their words: machines, cards, links."""

from __future__ import annotations

import argparse

from cloudme import cli, index, layout, monitors
from cloudme.cli import definitions, monitoring
from cloudme.errors import CloudMeError, NotFound
from cloudme.formats.definitions import Site
from cloudme.model.definitions import identity
from cloudme.model.definitions.nouns import Attachment, Merged
from cloudme.model.machine import Machine
from cloudme.model.ports import Host
from cloudme.operations import cards
from cloudme.operations.cards import Card
from cloudme.store import Store


def run(args: argparse.Namespace, store: Store, host: Host, *, on: bool) -> int:
    """Change all, as far as they can be changed. Returns the exit status: of the first that could not."""
    troubles = monitoring.Troubles()
    for card in wanted(args, store):
        try:
            with cli.transaction(args, host) as transaction:
                cards.change(transaction, card, on=on)
        except CloudMeError as error:
            troubles.tell(card.name, error)
        else:
            if not args.dry_run:
                print(f"{card.name}: {'enabled' if on else 'disabled'}", flush=True)
    return troubles.status


def wanted(args: argparse.Namespace, store: Store) -> list[Card]:
    """The cards that are meant, each once. Raises NotFound; SpecError for definitions that are needed."""
    found: list[Card] = []
    site = None
    for text in args.names:
        name, dot, connection = text.partition(".")
        machine = store.machine(name) if name in index.names(store.world.machines) else None
        if machine and not machine.definition:
            mine = _ours(store, machine, connection if dot else None)
        else:
            site = site or _site(args, text)
            mine = _defined(site, f"{machine.definition}{dot}{connection}" if machine else text)
        found += [card for card in mine if card not in found]
    return found


def _ours(store: Store, machine: Machine, connection: str | None) -> list[Card]:
    """Those of a machine of ours; a card is its number, or its network. Raises NotFound."""
    found = [card for number, card in enumerate(_cards(store, machine))
             if connection in (None, str(number), machine.nics[number].network)]
    if not found:
        networks = ", ".join(f"{number} ({nic.network})" for number, nic in enumerate(machine.nics))
        raise NotFound(f"'{machine.name}' has no card" + (f" '{connection}'" if connection is not None else ""),
                       hint=f"there is: {networks}" if networks else None)
    return found


def _cards(store: Store, machine: Machine) -> list[Card]:
    """The kernel names their taps, QEMU alone holds them; with its link down nothing passes one."""
    speaker = monitors.of(store, machine)
    return [Card(f"{machine.name}.{number}", speaker, f"net{number}") for number in range(len(machine.nics))]


def _site(args: argparse.Namespace, text: str) -> Site:
    try:
        return definitions.site(args)
    except NotFound:
        if args.root or args.host_config:
            raise
        raise NotFound(f"no machine or link '{text}'", hint="vmrunning -a lists machines") from None


def _defined(site: Site, text: str) -> list[Card]:
    """Those of a machine that is defined; names of links are compared: a digest, or a dot, cannot be taken apart."""
    if text in site.there or any(machine.name == text for machine in site.machines.values()):
        (machine,) = site.pick([text])
        return [_card(site, machine, number) for number in range(len(machine.connections))]
    matches = [(stem, number) for stem, machine in site.machines.items()
               for number, connection in enumerate(machine.connections)
               if text in (f"{machine.name}.{connection.name}", identity.link(machine.name, connection.name))]
    if not matches:
        raise NotFound(f"no machine or link '{text}'", hint="vmcat shows the connections of what is defined")
    stem, number = matches[0]  # two links of one name are a mistake, which pick tells
    return [_card(site, site.pick([stem])[0], number)]


def _card(site: Site, machine: Merged, number: int) -> Card:
    connection = machine.connections[number]
    link = identity.link(machine.name, connection.name)
    return Card(link, monitors.of_definition(machine.name, layout.machina_run()), f"net.{number}", link,
                site.host.networks.get(connection.network, Attachment()))
