"""Small grammars of a lab's values: durations, sizes, addresses. Pure text → value or complaint."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

SERVICE_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DAY_S = 86_400.0

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(ms|s|sec|m|min|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
# systemd's parse_size with base 1024: one suffix letter, upper case.
_SIZE = re.compile(r"\d{1,15}(?:\.\d{1,6})?[BKMGTPE]?|(?:100|[1-9]\d?)%|infinity")
_URL_HINT = "write `http://HOST:PORT` or `https://HOST`"
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")


class Bad(NamedTuple):
    """Why a text is not a value of its grammar. `message` continues "… is"."""

    message: str
    hint: str = ""


def duration_s(text: str) -> float | Bad:
    """`30`, `30s`, `2m`, `1h`, `500ms` → seconds."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return Bad("no duration", "write `30`, `30s`, `2m` or `1h`")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def memory_size(text: str) -> str | Bad:
    """A systemd `MemoryMax=` value, kept as written: `24G`, `512M`, `80%`, `infinity`."""
    if not _SIZE.fullmatch(text):
        upper = text.upper().removesuffix("IB").removesuffix("B")
        fits = upper != text and _SIZE.fullmatch(upper) is not None
        return Bad("no size that systemd knows", f"write `{upper if fits else '24G'}`")
    if text[-1].isdigit() and float(text) < 1 << 20:
        return Bad("less than one MiB: a bare number is bytes", f"write `{text}G` or `{text}M`")
    return text


def listen_host(text: str) -> str | Bad:
    """An address or host name to listen on."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "://" in text or not _HOST.fullmatch(host):
        return Bad("no address", "write `127.0.0.1`, `0.0.0.0`, `::1` or a host name")
    return host


def base_url(text: str) -> Bad | None:
    """What is wrong with a provider's URL; None when it can be called.

    The URL itself is never part of the answer when it holds credentials.
    """
    if any(char.isspace() or not char.isprintable() for char in text):
        return Bad("no URL: it holds a blank or a control character")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return Bad("a URL whose host or port cannot be read", _URL_HINT)
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return Bad("no http or https URL with a host", _URL_HINT)
    if parts.query or parts.fragment:
        return Bad("a URL with a query or fragment, which no provider takes", "end it at the path")
    if host in ("0.0.0.0", "::"):
        return Bad("an address to listen on, not one to call", "call it as 127.0.0.1")
    return None


def has_credentials(text: str) -> bool:
    """Whether a URL carries a user name or password."""
    authority = text.split("://", 1)[-1].split("/", 1)[0]
    return "@" in authority
