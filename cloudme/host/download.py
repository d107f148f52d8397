"""Files from http and https servers, with requests. What breaks is tried again, from where it broke."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cloudme import __version__
from cloudme.errors import Busy, NotFound, PeerError
from cloudme.model.ports import Progress
from cloudme.model.units import MIB
from cloudme.store import reported, write_atomic

if TYPE_CHECKING:
    from requests import Response

T = TypeVar("T")

HEADERS = {"User-Agent": f"cloudMe/{__version__}", "Accept-Encoding": "identity"}
CHUNK_BYTES = 32 << 10
"""What a cut connection may lose: requests hands out whole chunks only."""

BROKE = "the connection broke"
TEXT_BYTES = 4 * MIB
TEXT_TRIES = 2
PAUSE_LIMIT_S = 30.0
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""What a server says when the same request may do later (RFC 9110, 15; RFC 6585)."""


class _Passing(Exception):
    """It did not work, and may the next time."""


@dataclass(frozen=True, slots=True)
class Http:
    """Implements `Download`.

    tries:   how many in a row may fail; one that brings something new begins the count anew.
    pause_s: between two of them; it doubles.
    stall_s: how long a connection may bring nothing.
    """

    tries: int = 5
    pause_s: float = 1.0
    stall_s: float = 30.0

    def text(self, url: str) -> bytes:
        return self._persist(url, lambda: self._text(url), lambda: 0, min(self.tries, TEXT_TRIES))

    def file(
        self, url: str, path: str, *, mark: str, room: Callable[[int], None], progress: Progress,
    ) -> None:
        partial = _Partial(path, mark)
        self._persist(url, lambda: self._file(url, partial, room, progress), partial.size, self.tries)

    def _persist(self, url: str, once: Callable[[], T], reached: Callable[[], int], tries: int) -> T:
        failed, best = 0, reached()
        while True:
            try:
                return once()
            except _Passing as problem:
                came = reached()
                failed = 1 if came > best else failed + 1
                best = max(best, came)
                if failed >= tries:
                    raise Busy(f"{url}: {problem}", hint="try it again later") from None
            time.sleep(min(self.pause_s * 2 ** (failed - 1), PAUSE_LIMIT_S))

    def _text(self, url: str) -> bytes:
        with self._answer(url, {}) as response:
            path = [answer.url for answer in (*response.history, response)]
            if insecure := [hop for hop in path if url.startswith("https:") and not hop.startswith("https:")]:
                raise PeerError(f"{url}: leads to {insecure[0]}, which anybody on the way can change")
            found = b""
            for chunk in self._chunks(url, response):
                found += chunk
                if len(found) > TEXT_BYTES:
                    raise PeerError(f"{url}: this is no small file")
            return found

    def _file(self, url: str, partial: _Partial, room: Callable[[int], None], progress: Progress) -> None:
        """One try, from where the last one ended."""
        partial.read()
        have = partial.size()
        if have and have == partial.total:
            return
        resume = bool(have and partial.validator)
        headers = {"Range": f"bytes={have}-", "If-Range": partial.validator} if resume else {}
        with self._answer(url, headers) as response:
            if response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{have}":
                return  # that was all; how much that is was not known, or not true
            if response.status_code == 200:
                partial.begin(response)
            elif not resume or not partial.continued_by(response):
                partial.forget()
                raise _Passing(f"the server answers {response.status_code} with another part than was asked for")
            if partial.total is not None:
                room(partial.total - partial.size())
            self._receive(url, response, partial, progress)

    def _receive(self, url: str, response: Response, partial: _Partial, progress: Progress) -> None:
        have, total, name = partial.size(), partial.total, url.rpartition("/")[2]
        with reported(partial.path), open(partial.path, "ab") as file:
            try:
                for chunk in self._chunks(url, response):
                    file.write(chunk)
                    file.flush()
                    have += len(chunk)
                    progress(name, have, total or 0)
                if total is not None and have < total:
                    raise _Passing(BROKE)
            except _Passing as problem:
                raise _Passing(f"{problem}, after {have} of {total or 'unknown'} bytes") from problem
            os.fsync(file.fileno())

    def _chunks(self, url: str, response: Response) -> Iterator[bytes]:
        with self._told(url):
            yield from response.iter_content(CHUNK_BYTES)

    @contextlib.contextmanager
    def _answer(self, url: str, headers: Mapping[str, str]) -> Iterator[Response]:
        import requests

        with self._told(url):
            response = requests.get(url, headers={**HEADERS, **headers}, stream=True, timeout=self.stall_s)
        with response:
            status = f"{response.status_code} {response.reason}"
            if response.status_code in PASSING:
                raise _Passing(f"the server says {status}")
            if response.status_code in (404, 410):
                raise NotFound(f"{url}: the server says {status}",
                               hint="an entry of your own in catalogue.toml replaces ours: cmimage pull --list")
            if response.status_code not in (200, 206, 416):
                raise PeerError(f"{url}: the server says {status}")
            yield response

    @contextlib.contextmanager
    def _told(self, url: str) -> Iterator[None]:
        """Turns what requests raises, which are OSErrors all, into what it means."""
        from requests import exceptions

        try:
            yield
        except exceptions.SSLError as error:
            raise PeerError(f"{url}: no secure connection: {_reason(error)}") from error
        except exceptions.Timeout as error:
            raise _Passing(f"nothing came for {self.stall_s:g} s") from error
        except (exceptions.ConnectionError, exceptions.ChunkedEncodingError) as error:
            stalled = "timed out" in str(error)  # in the middle of a body it is a ConnectionError
            raise _Passing(f"nothing came for {self.stall_s:g} s" if stalled else _reason(error)) from error
        except exceptions.RequestException as error:
            raise PeerError(f"{url}: {error}") from error


def _reason(error: BaseException) -> str:
    """What the system said, deep below what libraries made of it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return BROKE


class _Partial:
    """What came of a file, and notes beside it: of which file it is the beginning."""

    def __init__(self, path: str, mark: str) -> None:
        self.path = path
        self.notes = f"{path}.json"
        self.mark = mark
        self.validator = ""
        self.total: int | None = None

    def size(self) -> int:
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0

    def read(self) -> None:
        """The notes; where there are none, or of another file, what came is dropped."""
        try:
            with open(self.notes, encoding="utf-8") as file:
                notes = json.load(file)
            right = notes["mark"] == self.mark
            self.validator, self.total = notes["validator"], notes["total"]
        except (OSError, ValueError, KeyError, TypeError):
            right = False
        if not right:
            self.forget()

    def begin(self, response: Response) -> None:
        """Begin anew. A weak validator is none for parts of a file (RFC 9110, 13.1.5)."""
        self.forget()
        tag = response.headers.get("ETag", "")
        self.validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        length = response.headers.get("Content-Length", "")
        self.total = int(length) if length.isdecimal() else None
        write_atomic(self.notes, json.dumps({"mark": self.mark, "validator": self.validator, "total": self.total}))

    def continued_by(self, response: Response) -> bool:
        """Whether the answer begins where we are, in a file as long as ours."""
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        return bool(match and response.status_code == 206 and int(match[1]) == self.size()
                    and (match[2] == "*" or self.total in (None, int(match[2]))))

    def forget(self) -> None:
        self.validator, self.total = "", None
        with reported(self.path):
            for path in (self.notes, self.path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
