"""Every file name that cloudMe uses, and nothing else.

A `World` is where one command acts: a home (three roots) and a realm (a network namespace). Images and templates
belong to the home; machines and networks belong to the realm in it. Only the standard library's `os` is imported:
listing and completion start here.
"""

from __future__ import annotations

import os

from cloudme import errors

SOCKET_PATH_BYTES = 108
"""unix(7): sun_path is 108 bytes with its NUL."""

MACHINE_RECORD = "machine.json"
TEMPLATE_RECORD = "template.json"

OS_NAME, ADDRESS, MAC, DISPLAY, PID = "os.name", "vm.ip", "vm.mac", "vnc.port", "vm.pid"
"""Of a machine that stands on an image: one word each, for people and their scripts. The last one while it runs."""

CATALOGUE = "catalogue.toml"

BRIDGE_HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
"""Where distributions put QEMU's setuid helper that makes taps."""

MACHINE_FOLDER, MACHINE_SUFFIX, HOST_CONFIGURATION = "machine.conf.d", ".conf", "machina.conf"
"""Definitions are MACHINE_FOLDER/NAME.conf.json, beside HOST_CONFIGURATION.json; other suffixes are right, too."""

MACHINA_RUN = "/run/machina"
"""Where machines that are defined have their sockets, a folder each: the seed's."""

ROOT_DATA, ROOT_RUN, ROOT_CONFIG = "/var/lib/cloudme", "/run/cloudme", "/etc/cloudme"

WARM = "warm"
RAM = "ram"
STATE = "state"
MANIFEST = "manifest.json"
"""A RAM image: the memory as a file, the state of all devices, and last the record that makes it valid. The disk that
belongs to it and the blank overlay of it lie beside them."""


class World:
    """The roots in which a command acts.

    data, run, config: absolute folders. realm: '' for the host's own network namespace, or, where the world
    is an ordinary user's (rootless), for one of his own.
    """

    __slots__ = ("config", "data", "realm", "rootless", "run")

    def __init__(self, *, data: str, run: str, config: str, realm: str = "", rootless: bool = False) -> None:
        self.data = data
        self.run = run
        self.config = config
        self.realm = realm
        self.rootless = rootless

    def beside(self, realm: str) -> World:
        """The same home in another realm, where names of files are all that is asked for."""
        return World(data=self.data, run=self.run, config=self.config, realm=realm)

    # of the home
    @property
    def images(self) -> str:
        return os.path.join(self.data, "images")

    def image_disk(self, name: str) -> str:
        return os.path.join(self.images, f"{name}.qcow2")

    def image_record(self, name: str) -> str:
        return os.path.join(self.images, f"{name}.json")

    @property
    def templates(self) -> str:
        return os.path.join(self.data, "templates")

    def template(self, name: str) -> str:
        return os.path.join(self.templates, name)

    def template_record(self, name: str) -> str:
        return os.path.join(self.template(name), TEMPLATE_RECORD)

    def warm(self, template: str) -> str:
        """The RAM image of a template: a folder with the files below."""
        return os.path.join(self.template(template), WARM)

    @property
    def store_lock(self) -> str:
        return os.path.join(self.data, "store.lock")

    @property
    def definitions(self) -> str:
        """The folder of the definitions of what systemd runs here."""
        home = "/etc/machina" if self.config == ROOT_CONFIG else os.path.join(self.config, "machina")
        return os.path.join(home, MACHINE_FOLDER)

    @property
    def playbooks(self) -> str:
        return os.path.join(self.config, "playbooks")

    @property
    def catalogue(self) -> str:
        """The entries that users add to the catalogue of images, or put in place of ours."""
        return os.path.join(self.config, CATALOGUE)

    # of the realm
    @property
    def realm_data(self) -> str:
        return os.path.join(self.data, "realms", self.realm) if self.realm else self.data

    @property
    def realm_run(self) -> str:
        return os.path.join(self.run, f"realms.{self.realm}") if self.realm else self.run

    @property
    def machines(self) -> str:
        return os.path.join(self.realm_data, "machines")

    def machine(self, name: str) -> str:
        return os.path.join(self.machines, name)

    def machine_record(self, name: str) -> str:
        return os.path.join(self.machine(name), MACHINE_RECORD)

    @property
    def homelab(self) -> str:
        """What cmapply has applied."""
        return f"{self.realm_data}/homelab.json"

    @property
    def homelab_lock(self) -> str:
        """One cmapply at a time."""
        return f"{self.realm_data}/homelab.lock"

    @property
    def forks(self) -> str:
        """The RAM images of machines that were forked, a folder each."""
        return os.path.join(self.realm_data, "forks")

    @property
    def networks(self) -> str:
        return os.path.join(self.realm_data, "networks")

    def network_record(self, name: str) -> str:
        return os.path.join(self.networks, f"{name}.json")

    def reservations(self, network: str) -> str:
        """The folder that dnsmasq reads as `dhcp-hostsdir`: one file a machine. It is the registry of addresses."""
        return os.path.join(self.networks, f"{network}.dhcp")

    def host_names(self, network: str) -> str:
        """The folder that dnsmasq reads as `hostsdir`: one file a machine."""
        return os.path.join(self.networks, f"{network}.hosts")

    def reached_domains(self, network: str) -> str:
        """The file that dnsmasq reads as `servers-file`: the domains of the networks that this one reaches."""
        return os.path.join(self.networks, f"{network}.servers")

    def leases(self, network: str) -> str:
        """dnsmasq's own notes of who has which address."""
        return os.path.join(self.networks, f"{network}.leases")

    def network_lock(self, network: str) -> str:
        """Held while the network is being changed."""
        return os.path.join(self.networks, f"{network}.lock")

    def dnsmasq(self, network: str, what: str) -> str:
        """The file dnsmasq.<what> of a network that runs: conf, pid, log. The last two are its own to write."""
        folder = self.network_run(network)
        return os.path.join(folder if what == "conf" else own(folder), f"dnsmasq.{what}")

    @property
    def private(self) -> bool:
        """Whether machines and networks are in a network namespace of their own, not in the host's."""
        return self.rootless or bool(self.realm)

    def uplink(self, what: str) -> str:
        """The file uplink.<what> of a rootless realm's way out: pid, log, resolv."""
        return os.path.join(self.realm_run, f"uplink.{what}")

    # what runs: gone after a reboot of the host. A dot cannot stand in a machine's name: no clash.
    def machine_run(self, name: str) -> str:
        return os.path.join(self.realm_run, name)

    def template_run(self, name: str) -> str:
        return os.path.join(self.realm_run, f"templates.{name}")

    def warm_run(self, template: str) -> str:
        return os.path.join(self.realm_run, f"warm.{template}")

    def fork_run(self, name: str) -> str:
        return os.path.join(self.realm_run, f"forks.{name}")

    @property
    def preparations(self) -> str:
        """What was prepared for machines that are defined. Root acts on it, so it is in no folder of theirs."""
        return os.path.join(self.realm_run, "machina.prepared")

    def prepared(self, name: str) -> str:
        return os.path.join(self.preparations, f"{name}.json")

    @property
    def loans(self) -> str:
        """Likewise which devices of the host's our machines have, in whatever realm."""
        return os.path.join(self.run, "machines.loans")

    def loan(self, uuid: str) -> str:
        return os.path.join(self.loans, f"{uuid}.json")

    def network_run(self, name: str) -> str:
        return os.path.join(self.realm_run, f"networks.{name}")

    @property
    def namespace(self) -> str:
        """The realm's network namespace, where `ip netns` looks for it (ip-netns(8)). Only for a named realm."""
        return os.path.join("/run/netns", f"cloudme-{self.realm}")


def lock(folder: str) -> str:
    """The file whose OFD lock is held while the machine in `folder` lives."""
    return os.path.join(folder, "lock")


def maker(folder: str) -> str:
    """The file whose OFD lock is held by the command that makes the thing in `folder`, until it is whole."""
    return os.path.join(folder, "maker")


def group(run: str) -> str:
    """The name of the cgroup of what runs in the folder `run`: a realm's is 'realm_name', and no two homes' are one."""
    home, name = os.path.split(run)
    if os.path.basename(home).startswith("realms."):
        home, realm = os.path.split(home)
        name = f"{realm.removeprefix('realms.')}_{name}"
    if os.path.basename(home) == "cloudme":
        return name
    from binascii import crc32

    return f"{name}:{crc32(os.fsencode(home)):08x}"


def own(run: str) -> str:
    """The folder in a run folder that belongs to the program which runs, and to no other. We write nothing into it."""
    return os.path.join(run, "own")


def forward(folder: str, protocol: str, address: str, port: int) -> str:
    """The file whose OFD lock is held by the process that serves a port of the host's for the machine that runs in
    `folder`. Beside it, with .log, is what that process had to complain of."""
    return os.path.join(folder, f"forward.{protocol}.{address}.{port}")


def share(folder: str, tag: str) -> str:
    """The file whose OFD lock is held by the virtiofsd of a share of the machine that runs in `folder`; missing where
    it has none. In the machine's own folder, with .log, is what that one says."""
    return os.path.join(folder, f"share.{tag}")


def socket(folder: str, role: str) -> str:
    """Return the path of a machine's socket, short enough to bind.

    role:    qmp.0 for what commands ask, qmp.1 to stop it, qmp.2 for who listens; agent, console, vnc.
    Raises:  ConfigError where it does not fit in a socket's address.
    """
    path = os.path.join(folder, role)
    if len(os.fsencode(path)) >= SOCKET_PATH_BYTES:
        raise errors.ConfigError(f"the path of a socket is too long: {path}", hint="use a shorter CLOUDME_HOME")
    return path


def world(realm: str | None = None) -> World:
    """Return the world that the environment chooses; `realm` (an option) wins over CLOUDME_REALM."""
    environ = os.environ
    chosen = environ.get("CLOUDME_REALM", "") if realm is None else realm
    home = environ.get("CLOUDME_HOME")
    rootless = os.geteuid() != 0
    if home:
        home = os.path.abspath(home)
        return World(data=home, run=os.path.join(home, "run"), config=os.path.join(home, "config"), realm=chosen,
                     rootless=rootless)
    if not rootless:
        return World(data=ROOT_DATA, run=ROOT_RUN, config=ROOT_CONFIG, realm=chosen)
    user = os.path.expanduser("~")
    data = environ.get("XDG_DATA_HOME") or os.path.join(user, ".local/share")
    run = environ.get("XDG_RUNTIME_DIR") or os.path.join(data, "cloudme/run")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(user, ".config")
    return World(
        data=os.path.join(data, "cloudme"), run=os.path.join(run, "cloudme"),
        config=os.path.join(config, "cloudme"), realm=chosen, rootless=True,
    )


def host_world() -> World:
    """Root's own, in the host's namespaces, as users look into it. CLOUDME_HOST_HOME names another one, for tests."""
    return World(data=os.environ.get("CLOUDME_HOST_HOME") or ROOT_DATA, run=ROOT_RUN, config=ROOT_CONFIG)


def definitions(root: str | None, *, here: bool = False) -> str:
    """The folder of the host's configuration and of the definitions.

    root:  an option: below it the folder is, and nowhere else.
    here:  where it is missing, and the current folder has definitions, that one, as with the seed.
    """
    if root is not None:
        return os.path.join(root, "etc/machina")
    home = os.environ.get("CLOUDME_HOME")
    folder = os.path.join(os.path.abspath(home), "config/machina") if home else "/etc/machina"
    return "." if here and not os.path.isdir(folder) and os.path.isdir(MACHINE_FOLDER) else folder


def units(root: str | None) -> str:
    """The folder of the units that whoever runs a host makes (systemd.unit(5)). root: see `definitions`."""
    return os.path.join(root or "/", "etc/systemd/system")


def sysusers(root: str | None) -> str:
    """The folder of the users that are made at boot (sysusers.d(5))."""
    return os.path.join(root or "/", "etc/sysusers.d")


def unit(machine: str) -> str:
    """The unit of a machine that is defined, by the name of its definition."""
    return f"machina-{machine}.service"


def machina_run() -> str:
    """MACHINA_RUN. CLOUDME_MACHINA_RUN names another folder, for tests."""
    return os.environ.get("CLOUDME_MACHINA_RUN") or MACHINA_RUN


def machina_lock(machine: str) -> str:
    """The file by whose OFD lock a machine that is defined is alive. Its QEMU may replace it, and all beside it."""
    return os.path.join(machina_run(), machine, "lock")


def machina_sockets(machine: str) -> dict[str, str]:
    """What a machine's sockets are called in its run folder -> where they are, once it is defined."""
    names = {"qmp.0": "command.0.qmp.socket", "qmp.1": "command.1.qmp.socket", "qmp.2": "command.1.qmp.socket",
             "agent": "agent.socket"}
    return {role: os.path.join(machina_run(), machine, name) for role, name in names.items()}


def text_templates() -> str:
    """The folder of the *.j2 files: beside the package in a checkout, else where setup.cfg installs them."""
    import sys

    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "templates")
    return beside if os.path.isdir(beside) else os.path.join(sys.prefix, "share/cloudme/templates")


def text_template(name: str, config: str) -> str:
    """The path of one of them; a copy in the configuration's templates/ folder wins."""
    own = os.path.join(config, "templates", name)
    return own if os.path.exists(own) else os.path.join(text_templates(), name)
