"""The wire of the heartbeat: rank 0 is the hub, every other rank a spoke; lines of JSON over TCP.

A connection tells the truth about a process: the kernel closes it when the process is gone,
whatever killed it, and keeps it open while the process lives, even if one long C call holds the
interpreter for a minute. So nobody has to guess from missing beats. When a whole machine vanishes
nothing is closed; keep-alive probes, answered by the kernel, end such a connection after about
half a minute.

Every message is a dict with ``kind`` and ``rank``. ``gone`` is made here, from the end of a
connection. A connection that does not begin with the run's token is dropped.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from typing import Any

Message = dict[str, Any]
PROBE_AFTER, PROBE_EVERY, PROBES = 10, 5, 3  # seconds, seconds, number
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening socket for a hub: on the loopback interface for a loopback host, else on all."""
    if host in LOOPBACK:
        return socket.create_server(("127.0.0.1", port))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    silence = 1000 * (PROBE_AFTER + PROBE_EVERY * PROBES)
    for name, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER),
        ("TCP_KEEPINTVL", PROBE_EVERY),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", silence),
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Line:
    """One connection: sends and receives whole messages, never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        _keep_alive(connection)
        connection.setblocking(False)
        self.connection = connection
        self.rank: int | None = None
        self._incoming = b""
        self._outgoing = b""

    def send(self, message: Message) -> None:
        """Queue a message and send what the connection takes; a dead one is noticed on
        receiving."""
        self._outgoing += json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            sent = self.connection.send(self._outgoing)
            self._outgoing = self._outgoing[sent:]

    def receive(self) -> tuple[list[Message], bool]:
        """(messages that arrived, whether the other side is still there)."""
        alive = True
        try:
            while chunk := self.connection.recv(65536):
                self._incoming += chunk
            alive = False
        except BlockingIOError:
            pass
        except OSError:
            alive = False
        *lines, self._incoming = self._incoming.split(b"\n")
        messages = []
        for line in lines:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    messages.append(message)
        return messages, alive

    def close(self) -> None:
        self.connection.close()


class Hub:
    """Rank 0's end of all connections.

    Args:
        server: from ``listen``.
        token: what a spoke of this run begins with.
    """

    def __init__(self, server: socket.socket, token: str) -> None:
        server.setblocking(False)
        self._server, self._token = server, token
        self._lines: list[_Line] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ, None)

    def poll(self, seconds: float) -> list[Message]:
        """Messages of all spokes, after at most ``seconds`` without any."""
        messages: list[Message] = []
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._accept()
            else:
                messages += self._read(key.data)
        return messages

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._server.accept()
            line = _Line(connection)
            self._lines.append(line)
            self._selector.register(connection, selectors.EVENT_READ, line)

    def _read(self, line: _Line) -> list[Message]:
        messages, alive = line.receive()
        if line.rank is None and messages:
            hello = messages.pop(0)
            if hello.get("token") == self._token:
                line.rank = int(hello["rank"])
        if line.rank is None and messages:
            messages, alive = [], False
        if not alive:
            self._selector.unregister(line.connection)
            self._lines.remove(line)
            line.close()
            if line.rank is not None:
                messages.append({"kind": "gone", "rank": line.rank})
        return messages

    def send(self, message: Message) -> None:
        """Send to every spoke."""
        for line in list(self._lines):
            line.send(message)

    def close(self) -> None:
        """Close all connections."""
        for line in self._lines:
            line.close()
        self._server.close()
        self._selector.close()


class Spoke:
    """Another rank's connection to the hub.

    Args:
        host: where the hub listens.
        port: where the hub listens.
        rank: of this process.
        token: of this run.
        patience: seconds to try.

    Raises:
        OSError: the hub cannot be reached.
    """

    def __init__(self, host: str, port: int, rank: int, token: str, patience: float = 30.0) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                connection = socket.create_connection((host, port), timeout=patience)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self._line = _Line(connection)
        self._alive = True
        self.send({"kind": "hello", "rank": rank, "token": token})

    def poll(self, seconds: float) -> list[Message]:
        """Messages of the hub, after at most ``seconds`` without any; its end comes once."""
        if not self._alive:
            time.sleep(seconds)
            return []
        with selectors.DefaultSelector() as selector:
            selector.register(self._line.connection, selectors.EVENT_READ)
            selector.select(seconds)
        messages, self._alive = self._line.receive()
        return messages if self._alive else [*messages, {"kind": "gone", "rank": 0}]

    def send(self, message: Message) -> None:
        """Send to the hub."""
        self._line.send(message)

    def close(self) -> None:
        """Close the connection."""
        self._line.close()
