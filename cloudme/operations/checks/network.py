"""What the networks of machines need of the host."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from cloudme.model.check import Level, Line, Result, Sysctl
from cloudme.model.network import Network
from cloudme.operations.checks.look import Look, good

FILTERS = tuple(f"net.bridge.bridge-nf-call-{what}" for what in ("iptables", "ip6tables", "arptables"))
"""Whether frames on a bridge pass the firewall as if they were routed (kernel, networking/ip-sysctl)."""
FORWARD = "net.ipv4.ip_forward"
ACL = "/etc/qemu/bridge.conf"
HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
VIRTUAL = ("tun", "veth", "bridge", "vlan", "bond")


def bridge(look: Look) -> Iterator[Result]:
    if not look.networks:
        yield good("bridge", "no network is started (cmnet start)")
    for network in look.networks:
        yield _bridge(look, network)


def _bridge(look: Look, network: Network) -> Result:
    link = look.links.get(network.bridge)
    own = f"cmcheck --persist --bridge {network.bridge} --nic NIC"
    fix = own if network.external else f"cmnet start {network.name}"
    means = f"machines on network '{network.name}' are not started"
    if link is None or link.kind != "bridge":
        return Result(check="bridge", level=Level.failed, what=f"there is no bridge {network.bridge}", means=means,
                      fix=fix)
    if not link.up:
        return Result(check="bridge", level=Level.failed, what=f"the bridge {network.bridge} is down",
                      means="machines on it reach nobody", fix=f"ip link set {network.bridge} up")
    if not any(address.network.overlaps(network.address.network) for address in link.addresses):
        return Result(check="bridge", level=Level.failed,
                      what=f"the bridge {network.bridge} has no address in {network.address.network}",
                      means="this host does not reach the machines on it", fix=fix)
    return good("bridge", f"{network.bridge} is up, with {', '.join(map(str, link.addresses))}")


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
    on = [name for name in FILTERS if look.sysctl(name) == "1"]
    if not on:
        yield good("bridge-nf", "frames on bridges do not pass the firewall")
        return
    yield Result(
        check="bridge-nf", level=Level.failed if look.dropping else Level.warning,
        what=f"{', '.join(on)} = 1" + (f", and {look.dropping[0]} drops" if look.dropping else ""),
        means="machines boot, have their address, and cannot be reached" if look.dropping else
        "as soon as a firewall drops what is forwarded, machines cannot be reached",
        fix="; ".join(f"sysctl -w {name}=0" for name in on), mends=tuple(Sysctl(name=name, value="0") for name in on))


def firewall(look: Look) -> Iterator[Result]:
    """What one table accepts another may still drop: each chain that drops has to let our bridges pass."""
    for where in look.dropping:
        rules = look.rules(where)
        missing = [f'{way} "{network.bridge}"' for network in look.networks if not network.external
                   for way in ("iifname", "oifname") if f'{way} "{network.bridge}" accept' not in rules]
        if missing:
            yield Result(
                check="firewall", level=Level.warning, what=f"{where} drops what is forwarded",
                means="machines do not get out of this host",
                fix="; ".join(f"nft insert rule {where} {match} accept" for match in missing).replace('"', ""))
            return
    yield good("firewall", "nothing drops what machines send")


def forwarding(look: Look) -> Iterator[Result]:
    routed = [network.name for network in look.networks if not network.external]
    if routed and look.sysctl(FORWARD) != "1":
        yield Result(check="forwarding", level=Level.failed, what=f"{FORWARD} is off",
                     means="machines reach this host and no other", fix=f"sysctl -w {FORWARD}=1",
                     mends=(Sysctl(name=FORWARD, value="1"),))
    else:
        yield good("forwarding", "on" if routed else "not needed")


def bridge_helper(look: Look) -> Iterator[Result]:
    """QEMU's setuid helper makes taps for who is not root; it acts in the host's own namespace alone."""
    if look.world.realm:
        yield good("bridge-helper", "not used in a realm")
        return
    allowed = [line.split()[1] for line in (look.host.files.read(ACL) or "").splitlines()
               if line.startswith("allow ") and len(line.split()) == 2]
    if "all" in allowed:
        yield Result(check="bridge-helper", level=Level.warning, what=f"{ACL} says 'allow all'",
                     means="every user may join every bridge of this host", fix=f"sed -i '/^allow all$/d' {ACL}")
    missing = [network.bridge for network in look.networks if network.bridge not in allowed and "all" not in allowed]
    if missing:
        lines = tuple(Line(path=ACL, line=f"allow {bridge}", group="kvm") for bridge in missing)
        yield Result(check="bridge-helper", level=Level.warning, what=f"{ACL} does not allow {', '.join(missing)}",
                     means="machines of users other than root cannot join",
                     fix="; ".join(f"echo {one.line} >>{ACL}" for one in lines), mends=lines)
    helper = next((path for path in HELPERS if look.existing(path)), None)
    if not look.root and helper is None:
        yield Result(check="bridge-helper", level=Level.failed, what="QEMU's bridge helper is not installed",
                     means="this user's machines get no network card", fix=look.install("qemu-bridge-helper"))
    elif not look.root and helper and not (look.host.files.mode(helper) or 0) & stat.S_ISUID:
        yield Result(check="bridge-helper", level=Level.failed, what=f"{helper} is not setuid",
                     means="this user's machines get no network card", fix=f"chmod u+s {helper}")
    elif not missing and "all" not in allowed:
        yield good("bridge-helper", "root needs none" if look.root else f"{helper} helps")


def ports(look: Look) -> Iterator[Result]:
    """Only of what does not serve yet: of a network that does, the holder is dnsmasq itself."""
    for network in look.networks:
        conf, pid = look.world.dnsmasq(network.name, "conf"), look.world.dnsmasq(network.name, "pid")
        if network.external or look.host.run.signal(pid, conf, 0):
            continue
        if holder := look.host.net.port_taken(str(network.address.ip)):
            yield Result(check="ports", level=Level.failed, what=f"{network.address.ip}: {holder}",
                         means=f"nobody answers DHCP and DNS on network '{network.name}'",
                         fix="end it, or let it serve its own addresses only (dnsmasq: bind-dynamic)")
            return
    yield good("ports", "nobody else keeps the ports of DNS and DHCP")
