"""Files that a homelab's names: what is no playbook, and no user-data, as far as YAML tells."""

from __future__ import annotations

import pytest

from cloudme.formats.homelab import files


@pytest.mark.parametrize("content", [
    b"- hosts: all\n", b"---\n- import_playbook: x.yml\n...\n", b"\xef\xbb\xbf[]", b"$ANSIBLE_VAULT;1.1;AES256\n6631\n",
    b"- hosts: all\n  vars:\n    a: !vault |\n      $ANSIBLE_VAULT;1.1;AES256\n      66\n    b: !unsafe '{{'\n",
    b"- hosts:\tall\n", b'[\n\t{"hosts": "all"}\n]\n', b"- &a {hosts: all}\n- *a\n", b"- {hosts: a, hosts: b}\n",
    b"- hosts: [\n" + b"#" * (1 << 20),
])
def test_what_may_be_a_playbook_is_ansibles_business(content: bytes) -> None:
    assert files.playbook(content, "x.yml") == ""


@pytest.mark.parametrize(("content", "what"), [
    (b"", "x.yml: it is empty, and no playbook"),
    (b"# nothing\n", "x.yml: it is empty, and no playbook"),
    (b"\nhosts: all\n", "x.yml:2:1: a playbook is a list of plays"),
    (b"- hosts: all\n- \n- x\n", "x.yml:2:2: a play is an object, as {hosts: all}"),
    (b"- hosts: [\n", "x.yml:2:1: expected the node content, but found '<stream end>'"),
    (b"- hosts: *all\n", "x.yml:1:10: found undefined alias 'all'"),
    (b"- hosts: a\n---\n- hosts: b\n", "x.yml:2:1: but found another document"),
    (b"- hosts: \x00\n", "x.yml:1:10: the character U+0000 cannot be in a file"),
    (b"- hosts: all\n- \xff\n", "x.yml:2: it is not UTF-8"),
    (b"[" * 10000, "x.yml: it is nested too deeply"),
])
def test_what_is_no_list_of_plays_is_told_with_its_line(content: bytes, what: str) -> None:
    assert files.playbook(content, "x.yml") == what


@pytest.mark.parametrize("text", [
    "#cloud-config\n", "#cloud-config\npackages: [git]\n", "#cloud-config\na: !x b\n", "#cloud-config-archive\n- x\n",
    "#!/bin/sh\n- : [", "## template: jinja\n#cloud-config\n{% if x %}\n", "#include\nhttp://x/\n",
])
def test_what_may_be_user_data_is_cloud_inits_business(text: str) -> None:
    assert files.user_data(text, "ud") == ""


@pytest.mark.parametrize(("text", "what"), [
    ("#cloud-config\n\n- packages\n", "ud:3:1: after #cloud-config an object is wanted, as {packages: [git]}"),
    ("#cloud-config\npackages: [git\n", "ud:3:1: expected ',' or ']', but got '<stream end>'"),
    ("#cloud-config\na:\tb\n", "ud:2:3: found character '\\t' that cannot start any token"),
    ("packages: [git]\n", "ud:1: this is no user-data of cloud-init: it begins with one of '#cloud-config-archive', "
     "'#cloud-config', '#!', '#include', '#cloud-boothook', '## template: jinja'"),
])
def test_what_is_no_user_data_is_told_with_its_line(text: str, what: str) -> None:
    assert files.user_data(text, "ud") == what
