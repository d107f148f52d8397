"""What tags of the host's configuration bring to machines that are no definitions."""

from __future__ import annotations

import pytest

from cloudme.errors import SpecError
from cloudme.model.definitions import borrowed
from tests.unit.test_definitions import Machina
from tests.unit.test_definitions import machina as machina
from tests.unit.test_devices import GPU, OTHER, SOUND

HOST = {
    "pci": {"gpu": {"address": GPU, "class": "gpu"}, "sound": {"address": SOUND, "class": "sound"}},
    "mdev": {"m": {"address": OTHER, "types": {"small": "GRID"}}},
    "storage": {"raw": {"path": "/srv", "type": "raw"}},
    "network": {"lan": {"device": "br0"}},
    "tag": {
        "gpu": {"devices": [{"name": "g", "class": "gpu"}], "tags": ["sound"], "attrs": {"memory": {"ram": 4096}}},
        "sound": {"devices": [{"name": "s", "class": "sound"}], "attrs": {"memory": {"ram": 64}, "cpu": {
            "sockets": 2, "cores": 4}}},
        "vgpu": {"devices": [{"name": "v", "class": "small"}]},
        "data": {"volumes": [{"name": "d", "storage": "raw"}], "connections": [{"name": "n", "network": "lan"}],
                 "attrs": {"spice": {"enabled": True, "port": 5900}}},
    },
}


def test_tags_bring_devices_memory_and_processors(machina: Machina) -> None:
    machina.host(HOST)
    host = machina.read().host
    assert borrowed.of_tags(["gpu"], host) == borrowed.Brought(devices=(GPU, SOUND), vcpus=8, ram_mib=4096)
    assert borrowed.of_tags([], host) == borrowed.Brought()


def test_what_a_tag_brings_to_definitions_alone_is_told_all_at_once(machina: Machina) -> None:
    machina.host(HOST)
    with pytest.raises(SpecError) as told:
        borrowed.of_tags(["vgpu", "none", "data"], machina.read().host)
    text = "\n".join(told.value.lines)
    assert len(told.value.lines) == 6
    for words in ("tag 'none': there is none in ", "tag 'data': volume 'd'", "tag 'data': connection 'n'",
                  "tag 'data': attrs.spice.port is for definitions",
                  "tag 'vgpu': device 'v': 'small' are mediated devices"):
        assert words in text
