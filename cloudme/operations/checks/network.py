"""What the networks of machines need of the host."""

from __future__ import annotations

from collections.abc import Iterator

from cloudme.errors import NotPermitted
from cloudme.model.check import Level, Result, Sysctl
from cloudme.model.network import Network
from cloudme.operations.checks.look import Look, good

FILTERS = {f"net.bridge.bridge-nf-call-{what}": families for what, families in (
    ("iptables", ("ip", "inet")), ("ip6tables", ("ip6", "inet")), ("arptables", ("arp",)))}
"""Whether frames on a bridge pass the firewall as if they were routed (kernel, networking/ip-sysctl): the chains of
these families."""
FORWARD = "net.ipv4.ip_forward"


def bridge(look: Look) -> Iterator[Result]:
    if not look.networks:
        yield good("bridge", "no network is started (cmnet start)")
    for network in look.networks:
        if network in look.started:
            yield _bridge(look, network)
        else:
            yield good("bridge", f"network '{network.name}' is not started (cmnet start {network.name})")


def _bridge(look: Look, network: Network) -> Result:
    link = look.links.get(network.link)
    own = f"cmcheck --persist --bridge {network.bridge} --nic NIC"
    fix = own if network.external else f"cmnet start {network.name}"
    means = f"machines on network '{network.name}' are not started"
    if link is None or link.kind != ("vlan" if network.vlan else "bridge"):
        what = f"there is no {'link' if network.vlan else 'bridge'} {network.link}"
        return Result(check="bridge", level=Level.failed, what=what, means=means,
                      fix=fix)
    if not link.up:
        return Result(check="bridge", level=Level.failed, what=f"the bridge {network.link} is down",
                      means="machines on it reach nobody", fix=f"ip link set {network.link} up")
    if not network.external and network.address not in link.addresses:
        return Result(check="bridge", level=Level.failed,
                      what=f"the bridge {network.link} does not have {network.address}",
                      means="machines on it have no gateway", fix=fix)
    if not any(address.ip in network.address.network for address in link.addresses):
        return Result(check="bridge", level=Level.failed,
                      what=f"the bridge {network.bridge} has no address in {network.address.network}",
                      means="this host does not reach the machines on it", fix=fix)
    return good("bridge", f"{network.link} is up, with {', '.join(map(str, link.addresses))}")


def nic(look: Look) -> Iterator[Result]:
    """The cables of external bridges, and who has the address."""
    external = [network for network in look.networks if network.external]
    if not external:
        yield good("nic", "no network needs a card of this host")
    for network in external:
        ports = [link for link in look.links.values() if link.master == network.bridge and link.kind != "tun"]
        if not ports:
            yield Result(check="nic", level=Level.failed, what=f"no card is a port of {network.bridge}",
                         means="machines do not reach the LAN", fix=f"ip link set NIC master {network.bridge}")
        for port in ports:
            if look.wireless(port.name):
                yield Result(check="nic", level=Level.failed, what=f"{port.name} is Wi-Fi",
                             means="an access point takes no frames but the card's own: machines reach nobody",
                             fix="use a cable, or a network of cloudMe's own (cmnet start)")
            elif port.addresses:
                yield Result(check="nic", level=Level.failed,
                             what=f"{port.name} has {port.addresses[0]}, and is a port of {network.bridge}",
                             means="answers to this host go astray: the address belongs on the bridge",
                             fix=f"ip address flush dev {port.name}; cmcheck --persist --bridge {network.bridge} "
                                 f"--nic {port.name}")
            else:
                yield good("nic", f"{port.name} is a port of {network.bridge}, and has no address of its own")


def bridge_nf(look: Look) -> Iterator[Result]:
    """Where it is off, a boot would have it on again: it is the module's own value."""
    if look.world.realm and not look.started:
        yield good("bridge-nf", "cmnet start sees to it in a realm")
        return
    on = [name for name in FILTERS if look.sysctl(name) == "1"]
    keeps = tuple(Sysctl(name=name, value="0") for name in FILTERS if look.sysctl(name) == "0")
    if not on:
        yield Result(check="bridge-nf", level=Level.ok, what="frames on bridges do not pass the firewall", keeps=keeps)
        return
    drops = next((chain for name in on for chain in look.dropping if chain.split()[0] in FILTERS[name]), None)
    yield Result(
        check="bridge-nf", level=Level.failed if drops else Level.warning,
        what=f"{', '.join(on)} = 1" + (f", and {drops} drops" if drops else ""),
        means="machines boot, have their address, and cannot be reached" if drops else
        "as soon as a firewall drops what is forwarded, machines cannot be reached",
        fix="; ".join(f"sysctl -w {name}=0" for name in on), keeps=keeps,
        mends=tuple(Sysctl(name=name, value="0") for name in on))


def firewall(look: Look) -> Iterator[Result]:
    """What one table accepts another may still drop: each chain that drops has to let our bridges pass."""
    if look.chains is None:
        there = look.has("nft")
        yield Result(check="firewall", level=Level.warning,
                     what="this user cannot see the firewall's rules" if there else
                     "without nft the firewall's rules cannot be seen",
                     means="whether they drop what machines send is not known",
                     fix="sudo cmcheck firewall bridge-nf" if there else look.install("nft"))
        return
    for where in look.dropping:
        rules = look.rules(where)
        missing = [f'{way} "{network.link}"' for network in look.started if not network.external
                   for way in ("iifname", "oifname") if f'{way} "{network.link}" accept' not in rules]
        if missing:
            yield Result(
                check="firewall", level=Level.warning, what=f"{where} drops what is forwarded",
                means="machines do not get out of this host",
                fix="; ".join(f"nft insert rule {where} {match} accept" for match in missing).replace('"', ""))
            return
    yield good("firewall", "nothing drops what machines send")


def forwarding(look: Look) -> Iterator[Result]:
    routed = [network.name for network in look.started if not network.external]
    if routed and look.sysctl(FORWARD) != "1":
        yield Result(check="forwarding", level=Level.failed, what=f"{FORWARD} is off",
                     means="machines reach this host and no other", fix=f"sysctl -w {FORWARD}=1",
                     mends=(Sysctl(name=FORWARD, value="1"),))
    elif routed:
        yield Result(check="forwarding", level=Level.ok, what="on", keeps=(Sysctl(name=FORWARD, value="1"),))
    else:
        yield good("forwarding", "not needed")


def ports(look: Look) -> Iterator[Result]:
    """Only of what does not serve yet: of a network that does, the holder is dnsmasq itself."""
    for network in look.networks:
        if network.external or _serves(look, network):
            continue
        if not look.host.net.permitted():
            yield Result(check="ports", level=Level.warning, what="this user cannot try the ports of DNS and DHCP",
                         means="whether somebody else keeps them is not known", fix="sudo cmcheck ports")
            return
        if holder := look.host.net.port_taken(str(network.address.ip)):
            yield Result(check="ports", level=Level.failed, what=f"{network.address.ip}: {holder}",
                         means=f"nobody answers DHCP and DNS on network '{network.name}'",
                         fix="end it, or let it serve its own addresses only (dnsmasq: bind-dynamic)")
            return
    yield good("ports", "nobody else keeps the ports of DNS and DHCP")


def _serves(look: Look, network: Network) -> bool:
    pid, conf = (look.world.dnsmasq(network.name, what) for what in ("pid", "conf"))
    try:
        return look.host.run.signal(pid, conf, 0)
    except NotPermitted:  # it is there, and another user's
        return True
