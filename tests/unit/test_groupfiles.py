"""Group files: good ones, and every way to get a line wrong."""

from __future__ import annotations

import pytest

from cloudme.errors import SpecError
from cloudme.formats import groupfiles
from cloudme.model.machine import CloneRequest
from cloudme.model.units import GIB

TEMPLATES = {"debian", "archlinux"}


def parse(text: str, path: str = "lab/pftest") -> list[CloneRequest]:
    return groupfiles.parse(text, path, TEMPLATES)


def test_the_seeds_example_gives_two_web_and_one_sql() -> None:
    web, sql = parse("archlinux:2:pf1:web\narchlinux:1:pf1:sql\n")
    assert (web.template, web.count, web.group, web.type, web.prefix) == ("archlinux", 2, "pf1", "web", "web")
    assert (sql.count, sql.type, sql.where) == (1, "sql", "lab/pftest:2")


@pytest.mark.parametrize(("line", "group", "kind", "prefix", "count"), [
    ("debian:2", "pftest", "default", "debian", 2),
    ("debian:2:", "pftest", "default", "debian", 2),
    ("debian:2::web", "pftest", "web", "web", 2),
    ("debian::pf1:web", "pf1", "web", "web", 1),
    ("debian:1:pf1", "pf1", "default", "debian", 1),
    (" debian : 3 : pf1 : web ", "pf1", "web", "web", 3),
    ("debian:1:pf1:sql:name=db", "pf1", "sql", "db", 1),
])
def test_missing_fields_have_their_defaults(line: str, group: str, kind: str, prefix: str, count: int) -> None:
    (request,) = parse(line)
    assert (request.group, request.type, request.prefix, request.count) == (group, kind, prefix, count)


def test_options_set_memory_processors_and_extra_disks() -> None:
    (request,) = parse("debian:1:pf1:sql:mem=1G;cpu=4;dsk=5,512M")
    assert (request.ram_mib, request.vcpus, request.extra_disks) == (1024, 4, (5 * GIB, 512 << 20))


def test_a_bare_memory_is_mebibytes() -> None:
    assert parse("debian:1:pf1:sql:mem=1024")[0].ram_mib == 1024


def test_blank_lines_comments_marks_and_line_ends_do_not_matter() -> None:
    text = "\ufeff# two machines\r\n\r\ndebian:1:a:web\r\n   # another\r\ndebian:1:a:sql"
    assert [request.where for request in parse(text)] == ["lab/pftest:3", "lab/pftest:5"]


@pytest.mark.parametrize(("line", "what"), [
    ("debian", "2 to 5 fields are wanted, not 1"),
    ("debian:1:a:b:mem=1:c", "2 to 5 fields are wanted, not 6"),
    ("ubuntu:1", "no template 'ubuntu'"),
    ("debian:0:pf1:web", "'0' is no number of clones"),
    ("debian:-1:pf1:web", "'-1' is no number of clones"),
    ("debian:two:pf1:web", "'two' is no number of clones"),
    ("debian:1:pf 1:web", "'pf 1' is no name of a group"),
    ("debian:1:pf1:Web", "'Web' is no name of a type"),
    ("debian:1:templates:web", "the group 'templates' is reserved"),
    ("debian:1:pf1:web:name=-x", "'-x' is no prefix of names"),
    (f"debian:1:pf1:{'w' * 62}", f"'{'w' * 62}00' is no name"),
    ("debian:1:pf1:web:ram=1", "'ram=1' is no option"),
    ("debian:1:pf1:web:mem=", "'mem=' is no option"),
    ("debian:1:pf1:web:mem=1;mem=2", "'mem' stands twice"),
    ("debian:1:pf1:web:mem=lots", "'lots' is no size"),
    ("debian:1:pf1:web:mem=8", "8 MiB is too little memory"),
    ("debian:1:pf1:web:iso=maybe", "iso=maybe: yes or no is wanted"),
    ("debian:1:pf1:web:rate=fast", "'fast' is no rate"),
    ("debian:1:pf1:web:cpu=0", "0 is no number of CPUs"),
    ("debian:1:pf1:web:dsk=5,,5", "'' is no size"),
    ("debian:1:pf1:web:dsk=1,1,1,1,1,1,1,1", "8 extra disks are too many"),
    ("../etc:1", "'../etc' is no name of a template"),
])
def test_a_bad_line_is_named_with_file_and_number(line: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(f"# first\n{line}\n")
    (complaint,) = caught.value.lines
    assert complaint.startswith(f"lab/pftest:2: {what}")


def test_all_bad_lines_are_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse("ubuntu:1\ndebian:1\ndebian:0\n")
    assert [line.split(": ")[0] for line in caught.value.lines] == ["lab/pftest:1", "lab/pftest:3"]
    assert caught.value.exit_status == 65


def test_the_same_explicit_name_on_two_lines_is_a_clash() -> None:
    with pytest.raises(SpecError, match="the name 'db' clashes with that of line 1"):
        parse("debian:1:a:sql:name=db\ndebian:1:a:web:name=db\n")


def test_two_templates_may_share_a_type() -> None:
    assert [request.prefix for request in parse("debian:1:a:web\narchlinux:1:a:web\n")] == ["web", "web"]


def test_standard_input_has_the_default_group() -> None:
    assert parse("debian:1", "-")[0].group == "group"
