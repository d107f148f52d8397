"""A file full of mistakes through the real cmapply: all of them told, each with its place, and nothing changed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

FILE = """\
networks:
  vlan_mode: §tagged
  vlans:
    management: {id: 10, cidr: 10.20.10.0/24, reaches: [§sevices]}
    services: {id: 20, cidr: 10.20.20.0/24}
hosts: {template: §debain}
machines:
  vault: {vlan: management, ip: 10.20.10.10, ports: {nodes: §32767-30000}}
  jenkins:
    vlan: §managment
    ip: 10.20.10.11
    storage: {source: §/nowhere/at/all, mount_point: /srv}
    depends_on: [vault, §registri]
  registry: {vlan: services, ip: §10.20.10.20, tap_id: §vm-registry-123456}
  k8s-master: {vlan: services, ip: 10.20.20.20, vsock_cid: §2}
  k8s-worker: {vlan: services, ip: §10.20.20.20, §memory: 1G}
"""
"""Twelve mistakes, each where § is."""


def marked(text: str) -> list[tuple[int, int]]:
    """Line and column of each §, which goes."""
    return [(line, mark.start() + 1 - number) for line, row in enumerate(text.splitlines(), 1)
            for number, mark in enumerate(re.finditer("§", row))]


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in (folder, *folder.rglob("*"))}


def test_all_mistakes_are_told_with_their_places_and_nothing_is_changed(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "cloudme.yaml"
    file.write_text(FILE.replace("§", ""), "utf-8")
    before = tree(home), tree(tmp_path)
    for options in ([], ["--dry-run", "--diff"], ["--prune", "--yes"], ["vault"]):
        argv = [sys.executable, str(ROOT / "sbin/cmapply"), str(file), *options]
        ended = subprocess.run(argv, text=True, check=False, capture_output=True, timeout=60,
                               env={**os.environ, "CLOUDME_HOME": str(home)})
        assert (ended.returncode, ended.stdout) == (os.EX_DATAERR, ""), ended.stderr
        places = re.findall(rf"^ *{re.escape(str(file))}:(\d+):(\d+): ", ended.stderr, re.MULTILINE)
        assert [(int(line), int(column)) for line, column in places] == marked(FILE), ended.stderr
        assert (tree(home), tree(tmp_path)) == before
