"""One HTTP request with a hard deadline: no proxies, no redirects, no unbounded answer."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ANSWER_LIMIT_BYTES = 8 << 20
_ANY_ADDRESS = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names are lower case; `ttfb_ms` counts from before the connect."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    ttfb_ms: float


class NoAnswer(Exception):
    """No usable answer came. `timed_out` tells a slow endpoint from a broken one."""

    def __init__(self, detail: str, *, timed_out: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.timed_out = timed_out


def reachable(host: str) -> str:
    """Where to connect for an address that a server listens on."""
    bare = host.strip("[]")
    return _ANY_ADDRESS.get(bare, bare)


def knock(host: str, port: int, timeout_s: float) -> None:
    """Open and close a TCP connection. Raises `NoAnswer`."""
    with _connected(host, port, timeout_s):
        pass


def ask(
    host: str,
    port: int,
    path: str,
    *,
    timeout_s: float,
    key: str | None = None,
    body: bytes | None = None,
    limit_bytes: int = ANSWER_LIMIT_BYTES,
) -> Answer:
    """GET `path`, or POST `body` as JSON, with `key` as bearer token.

    `timeout_s` covers everything, however slowly the answer trickles. Raises `NoAnswer`; its text
    never holds the key.
    """
    started = time.monotonic()
    with _connected(host, port, timeout_s) as channel:
        connection = http.client.HTTPConnection(reachable(host), port)
        connection.sock = channel
        expired = threading.Event()
        watch = threading.Timer(timeout_s, _cut, (channel, expired))
        watch.daemon = True
        watch.start()
        try:
            _send(connection, path, key, body)
            select.select([channel], [], [], max(0.0, started + timeout_s - time.monotonic()))
            ttfb_ms = (time.monotonic() - started) * 1000
            response = connection.getresponse()
            data = response.read(limit_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            if expired.is_set() or isinstance(error, TimeoutError):
                raise NoAnswer(f"no answer within {timeout_s:g} s", timed_out=True) from error
            raise NoAnswer(_broken(error)) from error
        finally:
            watch.cancel()
            connection.close()
        if expired.is_set():  # an answer without a length ends where the connection was cut
            raise NoAnswer(f"no whole answer within {timeout_s:g} s", timed_out=True)
        if len(data) > limit_bytes:
            raise NoAnswer(f"the answer is larger than {limit_bytes >> 10} KiB")
        if response.length:
            raise NoAnswer("the answer was cut")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, data, ttfb_ms)


@contextlib.contextmanager
def _connected(host: str, port: int, timeout_s: float) -> Iterator[socket.socket]:
    where = f"{host}:{port}"
    try:
        channel = socket.create_connection((reachable(host), port), timeout=timeout_s)
    except TimeoutError as error:
        raise NoAnswer(
            f"no connection to {where} within {timeout_s:g} s", timed_out=True
        ) from error
    except ConnectionRefusedError as error:
        raise NoAnswer(f"nothing listens on {where}") from error
    except (OSError, UnicodeError, OverflowError) as error:
        raise NoAnswer(f"cannot connect to {where}: {error}") from error
    with channel:
        yield channel


def _send(
    connection: http.client.HTTPConnection, path: str, key: str | None, body: bytes | None
) -> None:
    headers: dict[str, str | bytes] = {"Accept": "application/json", "Connection": "close"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if key is not None:
        if not key.isprintable():  # http.client's own refusal would show the key
            raise NoAnswer("the key holds characters that no HTTP header may carry")
        headers["Authorization"] = b"Bearer " + key.encode()
    connection.request("GET" if body is None else "POST", path, body=body, headers=headers)


def _cut(channel: socket.socket, expired: threading.Event) -> None:
    expired.set()
    with contextlib.suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)


def _broken(error: Exception) -> str:
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut"
    if isinstance(error, http.client.HTTPException):
        return f"what answers does not speak HTTP ({type(error).__name__})"
    return f"the connection broke: {error}"
