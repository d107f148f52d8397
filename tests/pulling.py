"""Pulls an image from a site of the tests' own."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloudme.host.download import Http
from cloudme.host.run import Programs
from cloudme.model.catalogue import Entry
from cloudme.model.machine import Image
from cloudme.model.names import ImageName
from cloudme.model.steps import Transaction
from cloudme.operations import images
from cloudme.store import Store
from tests import fakes
from tests.site import Page, Site

PATH = "/mine.qcow2"
QUICK = Http(tries=1, pause_s=0, stall_s=30)


def publish(site: Site, content: bytes, **page: object) -> Page:
    """The disk and its checksum file as a server has them."""
    site.pages[PATH] = Page(content, **page)  # type: ignore[arg-type]
    site.pages["/SHA512SUMS"] = Page(f"{hashlib.sha512(content).hexdigest()}  mine.qcow2\n".encode())
    return site.pages[PATH]


def pull(store: Store, site: Site, http: Http = QUICK, *, said: list[str] | None = None, **more: Any) -> Image:
    entry = Entry(name=ImageName("mine"), url=site.url + PATH, checksums=f"{site.url}/SHA512SUMS", user="debian")
    host = replace(fakes.host(), run=Programs(), now=time.time, download=http)
    told = [] if said is None else said
    with Transaction(host, lambda line: None) as transaction:
        return images.pull(transaction, store, replace(entry, **more), say=told.append,
                           progress=lambda name, done, total: None)


def left(store: Store) -> list[str]:
    return sorted(os.listdir(store.world.images)) if os.path.isdir(store.world.images) else []


def kept(store: Store) -> int:
    """How many bytes wait to be gone on with."""
    path = Path(store.world.images, ".mine.part/download")
    return path.stat().st_size if path.exists() else 0


def pulled_whole(store: Store, disk: bytes) -> bool:
    path = Path(store.world.image_disk("mine"))
    return (left(store) == ["mine.json", "mine.qcow2"] and path.read_bytes() == disk
            and path.stat().st_mode & 0o777 == 0o444)
