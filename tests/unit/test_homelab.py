"""The file of a homelab: what it says, what follows from it, and the way back."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from cloudme.errors import NotFound, SpecError, StoreError
from cloudme.formats import homelab
from cloudme.formats.homelab import keys
from cloudme.model.homelab import planned
from cloudme.model.homelab.checks import Surroundings
from cloudme.model.homelab.nouns import Homelab, PortRange
from cloudme.model.machine import Board, Limits
from cloudme.model.names import Name
from tests.conftest import ROOT
from tests.homelabs import HOMELABS
from tools import schema

EXAMPLE = str(ROOT / "examples" / "homelab.yaml")
SEED = """
networks:
  vlans: {management: 10, services: 20}
machines:
  my-vm:
    template: debian
    vlan: services
    ip: 10.20.20.50
    mac: 02:00:00:00:20:99
    vsockCid: 199
    vcpu: 2
    mem: 2047
    tapId: vm-myvm
    hostname: my-vm
    ports: {ssh: 22, app: 8080}
    storage:
      source: /var/lib/microvms/my-vm/data
      mountPoint: /var/lib/myapp
      tag: myvm-storage
"""


def said(text: str, name: str = "cloudme.yaml") -> Homelab:
    return homelab.parse(text.encode(), name).demand()


def test_the_seeds_own_words_are_understood() -> None:
    machine = said(SEED).machines[Name("my-vm")]
    assert (machine.ip, machine.mac, machine.vsock_cid, machine.mem) == (
        IPv4Address("10.20.20.50"), "02:00:00:00:20:99", 199, 2047)
    assert machine.tap_id == "vm-myvm"
    assert dict(machine.ports) == {"ssh": PortRange(22, 22), "app": PortRange(8080, 8080)}
    [share] = machine.shares
    assert (share.source, share.mount_point, share.tag) == (
        "/var/lib/microvms/my-vm/data", "/var/lib/myapp", "myvm-storage")


def test_the_examples_six_machines_are_right() -> None:
    reading = homelab.read(EXAMPLE, Surroundings(ram_mib=64 << 10, templates={"debian": 1024}, images=(), tags=(),
                                                         networks={}, exists=lambda path: False))
    assert reading.complaints == ()
    machines = {str(machine.name): machine for machine in planned.planned(reading.homelab)}
    assert list(machines) == ["vault", "jenkins", "registry", "k8s-master", "k8s-worker-1", "k8s-worker-2"]
    assert machines["k8s-worker-1"].declared.gpu == ("0000:01:00.0",)
    assert machines["k8s-worker-1"].declared.vsock_cid is None
    assert {str(planned.subnet(reading.homelab, vlan)) for vlan in reading.homelab.networks.vlans} == {
        "10.20.10.1/24", "10.20.20.1/24"}
    assert list(planned.starts(reading.homelab)) == [
        ("vault", "registry"), ("jenkins", "k8s-master"), ("k8s-worker-1", "k8s-worker-2")]


def test_a_seventh_machine_is_six_lines() -> None:
    text = Path(EXAMPLE).read_text("utf-8") + """
  wiki:
    vlan: services
    ip: 10.20.20.30
    mem: 1G
    ports: {ssh: 22, web: 80}
    depends_on: vault
"""
    assert "wiki" in said(text).machines


def test_all_formats_say_the_same() -> None:
    whole = said(Path(EXAMPLE).read_text("utf-8"))
    document = {"$schema": "../docs/cloudme.schema.json", **homelab.plain(whole)}
    assert said(json.dumps(document), "cloudme.json") == whole
    assert said(json.dumps(document), "cloudme.yml") == whole
    toml = ('[networks.vlans.lan]\nid = 10\nprefix = 24\ngateway = "10.1.1.1"\n[hosts]\ntemplate = "t"\n'
            '[machines.a]\nvlan = "lan"')
    assert said(toml, "x.toml") == said("networks: {vlans: {lan: {id: 10, prefix: 24, gateway: 10.1.1.1}}}\n"
                                        "hosts: {template: t}\nmachines: {a: {vlan: lan}}")


@pytest.mark.parametrize("text", ["", "{}", "machines:", "# nothing", "networks: {vlans: {}}"])
def test_an_empty_file_says_nothing(text: str) -> None:
    assert said(text) == Homelab()


def test_a_machine_may_be_a_name_alone() -> None:
    assert list(said("hosts: {image: debian-12}\nmachines:\n  a:\n  b: {}\n").machines) == ["a", "b"]


def one(text: str, site: str = "") -> planned.Planned:
    [machine] = planned.planned(said(text), site=site)
    return machine


def test_what_is_not_said_follows() -> None:
    text = ("hosts: {template: t, mem: 4G, user: root, vlan: lan}\n"
            "networks: {vlans: {lan: {id: 7, cidr: 10.1.1.0/24}}}\nmachines: {web: %s}")
    machine = one(text % "{shares: [{source: /srv/x, mount_point: /var/lib/my+app}]}")
    assert (machine.mem, machine.declared.user, machine.declared.template) == (4096, "root", "t")
    assert (machine.group, machine.type, machine.hostname, machine.tap_id) == ("homelab", "default", "web", "vm-web")
    assert machine.declared.shares[0].tag == "var-lib-my-app"
    assert machine.board is Board.q35 and machine.autostart
    assert machine.mac.startswith("52:54:00:")
    assert machine.mac != one(text % "{}", site="another host").mac
    own = one(text % "{image: debian, network: lab, mem: 1G, autostart: false}")
    assert (own.declared.template, own.declared.vlan, own.mem, own.autostart) == (None, None, 1024, False)
    booted = one(text % "{kernel: /boot/vmlinuz, image: debian}")
    assert (booted.declared.template, booted.declared.image) == (None, "debian")


def test_long_names_are_cut_without_becoming_alike() -> None:
    assert planned.tap("k8s-worker-12") == planned.tap("k8s-worker-12")
    assert planned.tap("k8s-worker-12") != planned.tap("k8s-worker-13")
    assert len(planned.tap("k8s-worker-12")) == 15
    assert planned.tap("vault") == "vm-vault"


def test_replicas_count_names_addresses_and_cids() -> None:
    found = planned.planned(said("""
networks: {vlans: {lan: {id: 5, cidr: 10.1.0.0/24}}}
machines: {web: {template: t, vlan: lan, replicas: 3, ip: 10.1.0.9, vsock_cid: 50}}"""))
    assert [(machine.name, str(machine.declared.ip), machine.declared.vsock_cid) for machine in found] == [
        ("web00", "10.1.0.9", 50), ("web01", "10.1.0.10", 51), ("web02", "10.1.0.11", 52)]
    assert {machine.entry for machine in found} == {"web"}
    assert len({machine.mac for machine in found} | {machine.tap_id for machine in found}) == 6


@pytest.mark.parametrize(("vlan", "gateway"), [
    ("{id: 1, cidr: 10.1.0.0/16}", "10.1.0.1/16"), ("{id: 1, cidr: 10.1.0.0/16, gateway: 10.1.9.9}", "10.1.9.9/16"),
    ("{id: 1, gateway: 10.1.0.254}", "10.1.0.254/24"), ("{id: 1, gateway: 10.1.0.254, prefix: 20}", "10.1.0.254/20"),
    ("1", "10.9.8.1/24"), ("{id: 1, prefix: 16}", "10.9.0.1/16"),
])
def test_a_vlans_network_follows_from_what_there_is(vlan: str, gateway: str) -> None:
    reading = homelab.parse(f"""
networks: {{vlans: {{lan: {vlan}, empty: 2}}}}
hosts: {{template: t, vlan: lan}}
machines: {{other: {{network: x, ip: 10.0.0.1}}, web: {{ip: 10.9.8.7}}}}""".encode(), "x.yaml")
    assert str(planned.subnet(reading.homelab, "lan")) == gateway
    assert planned.subnet(reading.homelab, "empty") is None
    assert planned.subnet(reading.homelab, "nowhere") is None


def test_limits_and_rates_are_as_elsewhere() -> None:
    machine = said("""machines: {a: {template: t, net_rate: 1.5M,
      limits: {cpus: 1.5, weight: 50, memory: 4G, tasks: max, io: 50M}}}""").machines[Name("a")]
    assert machine.limits == Limits(cpus=1.5, cpu_weight=50, memory_mib=4096, tasks=0, io_bps=50 << 20)
    assert machine.net_rate == 1_500_000


@given(HOMELABS)
def test_what_is_dumped_reads_as_the_same(whole: Homelab) -> None:
    text = homelab.dump(whole)
    assert homelab.parse(text.encode(), "x.yaml").homelab == whole, text
    assert homelab.parse(json.dumps(homelab.plain(whole)).encode(), "x.json").homelab == whole


@given(HOMELABS, HOMELABS)
def test_nothing_differs_from_itself(whole: Homelab, other: Homelab) -> None:
    assert homelab.diff(whole, whole) == []
    assert bool(homelab.diff(whole, other)) == (whole != other)


def test_a_dump_is_in_the_order_of_the_tables_and_without_defaults() -> None:
    text = "machines: {b: {ports: {ssh: 22}, mem: 1024, template: t, readonly: }, a: {template: t}}"
    assert homelab.dump(said(text.replace(", readonly: ", ", isolate: false"))) == """\
machines:
  b:
    template: t
    mem: 1G
    ports:
      ssh: 22
  a:
    template: t
"""


def test_a_difference_is_told_value_by_value() -> None:
    old = said("networks: {vlans: {lan: 1}}\nmachines: {a: {template: t, mem: 2G, ports: {ssh: 22}}, b: {template: t}}")
    new = said("networks: {vlans: {lan: {id: 1, cidr: 10.0.0.0/24}}}\n"
               "machines: {a: {template: t, mem: 4G}, c: {template: t}}")
    assert [str(change) for change in homelab.diff(old, new)] == [
        "networks.vlans.lan: 1 -> not set", "a.mem: 2G -> 4G", "a.ports.ssh: 22 -> not set", "b.template: t -> not set",
        "networks.vlans.lan.id: not set -> 1", "networks.vlans.lan.cidr: not set -> 10.0.0.0/24",
        "c.template: not set -> t"]


def test_a_file_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        homelab.read(str(tmp_path / "cloudme.yaml"))
    with pytest.raises(StoreError):
        homelab.read(str(tmp_path))
    path = tmp_path / "cloudme.yaml"
    path.write_text("machines: {a: {mem: 1}}", "utf-8")
    with pytest.raises(SpecError) as caught:
        homelab.read(str(path)).demand()
    assert f"{path}:1:21: machines.a.mem: 1 MiB is too little memory" in caught.value.lines[1]


def valid(document: Any) -> bool:
    import jsonschema

    return bool(jsonschema.Draft202012Validator(json.loads(schema.schema_text())).is_valid(document))


def test_the_schema_is_one() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(json.loads(schema.schema_text()))


@given(HOMELABS)
def test_whatever_is_dumped_passes_the_schema(whole: Homelab) -> None:
    assert valid(homelab.plain(whole))


def test_the_seeds_words_and_the_example_pass_the_schema() -> None:
    import yaml

    assert valid(yaml.safe_load(SEED.replace("02:00:00:00:20:99", "'02:00:00:00:20:99'")))
    assert valid(yaml.safe_load(Path(EXAMPLE).read_text("utf-8")))


def test_every_field_has_a_key() -> None:
    for table in (keys.HOMELAB, keys.NETWORKS, keys.VLAN, keys.HOSTS, keys.MACHINE, keys.SHARE, keys.LIMITS):
        fields = set(getattr(table.noun, "__dataclass_fields__", ()))
        assert {key.target for key in table.keys} == fields
