"""A web server of the tests' own, on the loopback, that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """A file, and what is wrong with its server.

    cuts: where each connection ends, one after the other. stalls: it then stays open, silent. claims: a wrong
    Content-Length. ranges: whether parts are served. status, location: of an answer without the file.
    """

    content: bytes
    etag: str = '"1"'
    cuts: list[int] = field(default_factory=list)
    stalls: bool = False
    claims: int | None = None
    ranges: bool = True
    sized: bool = True
    status: int = 200
    location: str = ""


@dataclass
class Site:
    """pages: by path. asked: path and Range of every request. `going` is set when all have to let go."""

    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    going: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def ranges(self, path: str) -> list[str]:
        return [wanted for asked, wanted in self.asked if asked == path]


class Answer(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.site.asked.append((self.path, wanted))
        self.close_connection = True
        page = self.site.pages.get(self.path)
        if page is None or page.status != 200:
            self.send_response(page.status if page else 404)
            if page and page.location:
                self.send_header("Location", page.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = self.begin(page, wanted)
        if begin >= len(page.content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(page.content)}")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        self.headers_of(page, begin)
        self.body(page, begin)

    def begin(self, page: Page, wanted: str) -> int:
        if not (page.ranges and wanted and self.headers.get("If-Range", page.etag) == page.etag):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def headers_of(self, page: Page, begin: int) -> None:
        size = len(page.content)
        if page.sized:
            self.send_header("Content-Length", str((size if page.claims is None else page.claims) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        if page.etag:
            self.send_header("ETag", page.etag)
        self.end_headers()

    def body(self, page: Page, begin: int) -> None:
        end = page.cuts.pop(0) if page.cuts else len(page.content)
        with contextlib.suppress(OSError):
            self.wfile.write(page.content[begin:end])
            self.wfile.flush()
            if page.stalls and end < len(page.content):
                self.site.reached.set()
                self.site.going.wait()
                self.wfile.write(page.content[end:])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: pytest shows what fails."""


@contextlib.contextmanager
def served() -> Iterator[Site]:
    """A site until the end of the block, at http://127.0.0.1:PORT."""
    handler = type("Bound", (Answer,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site = Site(f"http://127.0.0.1:{server.server_address[1]}")
        handler.site = site  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield site
        finally:
            site.going.set()
            server.shutdown()
            thread.join()
