"""A report page that is served while its runs go on training.

``LivePage`` writes the page anew when the files of its runs have changed, and only when somebody
asks for it. That happens in the background: until it is done the page as it was is served, so only
the first one is waited for. ``LiveServer`` answers with that one page and nothing else. A
``Refresh`` header makes the browser ask again, so the page needs no script and keeps its strict
content-security policy; finished runs that no longer change have none. What was not changed since
the browser asked last is answered with 304.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from gppf_d2.analysis.run_folder import read_run

REFRESH = 10  # seconds after which a browser asks again
PAUSE = 3.0  # seconds between two writings of the page, at least
SHARE = 0.25  # of one core that writing the page may take: the training needs the others
STALE = 120.0  # seconds after which the page is written anew even so: it tells how old things are
SETTLED = 120.0  # seconds after the last change of finished runs, from which on none is expected
# what a page shows; checkpoints, event files and the pages themselves are not looked at
WATCHED = ("*.json", "*.jsonl", "config.yaml", "log.txt", "predictions/*.png", "cka/*.json")

Files = tuple[tuple[str, int, int], ...]  # path, size, time of change in nanoseconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What is sent: the page, or in one sentence why there is none; ``last`` is one that the
    browser need not ask for again."""

    status: HTTPStatus
    body: bytes
    last: bool = False

    @property
    def tag(self) -> str:
        """The entity tag, equal for equal pages. The last one has a tag of its own: after a 304 the
        browser would go on with the headers that it knows."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}{"-last" if self.last else ""}"'


class LivePage:
    """A page that follows the files of its runs.

    Args:
        write: writes the page and returns its path.
        folders: of the runs that it shows.
        pause: seconds between two writings, at least.
    """

    def __init__(
        self, write: Callable[[], Path], folders: Sequence[Path], pause: float = PAUSE
    ) -> None:
        self._write = write
        self._folders = [Path(folder) for folder in folders]
        self._pause = pause
        self._lock = threading.Lock()
        self._answer: Answer | None = None
        self._drawing: threading.Thread | None = None
        self._seen: Files = ()
        self._finished = False
        self._written = self._next = 0.0

    def answer(self) -> Answer:
        """The page as it was written last; where it is old a new one is begun, in the background.
        Safe in threads."""
        with self._lock:
            if self._drawing is None and time.monotonic() >= self._next:
                self._begin()
            answer, last = self._answer, self._drawing is None and self._settled()
        if answer is None:
            self.wait()
            return self.answer()
        return replace(answer, last=last and answer.status == HTTPStatus.OK)

    def wait(self) -> None:
        """Return when no page is being written any more."""
        with self._lock:
            drawing = self._drawing
        if drawing is not None:
            drawing.join()

    def _begin(self) -> None:
        """Write the page in the background, if it is old."""
        files, age = fingerprint(self._folders), time.monotonic() - self._written
        old = age > STALE and not self._settled()
        if self._answer is None or files != self._seen or old:
            self._drawing = threading.Thread(target=self._draw, args=(files,), daemon=True)
            self._drawing.start()

    def _draw(self, files: Files) -> None:
        begun = time.monotonic()
        answer, finished = self._build(), self._all_finished()
        with self._lock:
            self._seen, self._answer, self._finished = files, answer, finished
            self._written = time.monotonic()
            wait = (self._written - begun) * (1 / SHARE - 1)
            self._next = self._written + max(self._pause, wait)
            self._drawing = None

    def _settled(self) -> bool:
        """Whether all runs were finished a while ago."""
        changed = max((time_ns for _, _, time_ns in self._seen), default=0) / 1e9
        return self._finished and time.time() - changed > SETTLED

    def _all_finished(self) -> bool:
        try:
            return all(read_run(folder).finished for folder in self._folders)
        except Exception:  # a folder that is gone, or what `_build` has told already
            return False

    def _build(self) -> Answer:
        try:
            return Answer(HTTPStatus.OK, self._write().read_bytes())
        except Exception as error:  # whatever a half-written file leads to: the server goes on
            reason = " ".join(str(error).split()) or type(error).__name__
            logger.warning("The page cannot be written: %s", reason)
            sentence = f"The page cannot be written: {reason}\n"
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, sentence.encode("utf-8", "replace"))


def fingerprint(folders: Sequence[Path]) -> Files:
    """Path, size and time of change of every file that a page of these runs shows."""
    found = []
    for folder in folders:
        for path in sorted(file for pattern in WATCHED for file in folder.glob(pattern)):
            try:
                state = path.stat()
            except FileNotFoundError:  # replaced at this moment
                continue
            found.append((str(path), state.st_size, state.st_mtime_ns))
    return tuple(found)


class LiveServer(ThreadingHTTPServer):
    """Serves one page at "/".

    Args:
        page: what is served.
        host: address that it listens on.
        port: 0 takes a free one.
        refresh: seconds after which a browser asks again.

    Raises:
        OSError: the address or the port cannot be had.
    """

    def __init__(
        self, page: LivePage, host: str = "127.0.0.1", port: int = 0, refresh: int = REFRESH
    ) -> None:
        self.page = page
        self.refresh = refresh
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no error of the server; anything else is shown."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "gppf_d2"
    sys_version = ""
    timeout = 60  # seconds that an idle connection is kept
    server: LiveServer

    def do_GET(self) -> None:
        self._reply(body=True)

    def do_HEAD(self) -> None:
        self._reply(body=False)

    def _reply(self, body: bool) -> None:
        if urlsplit(self.path).path != "/":
            answer = Answer(HTTPStatus.NOT_FOUND, b"There is one page here: /\n")
        else:
            answer = self.server.page.answer()
        known = {
            tag.strip().removeprefix("W/")
            for tag in self.headers.get("If-None-Match", "").split(",")
        }
        same = answer.status == HTTPStatus.OK and answer.tag in known
        self.send_response(HTTPStatus.NOT_MODIFIED if same else answer.status)
        if answer.status == HTTPStatus.OK:
            self.send_header("ETag", answer.tag)
        if answer.status != HTTPStatus.NOT_FOUND and not answer.last:
            self.send_header("Refresh", str(self.server.refresh))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        if not same:
            kind = "html" if answer.status == HTTPStatus.OK else "plain"
            self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if body and not same:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: object) -> None:
        logger.debug(format, *arguments)
