"""Which web pages may connect: the ``Origin`` that browsers send, checked (RFC 6454).

Against cross-site WebSocket hijacking: a page of somebody else opens a socket in the browser of a
user who is logged in here. The same-origin policy of browsers does not hold for WebSockets; the
gateway has to enforce it. Programs that are no browsers send no ``Origin`` and need none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

from broker.errors import ConfigurationError

DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
"""Ports that browsers leave out of an origin (RFC 6454 section 6.2)."""

ANY_SUBDOMAIN: Final = "*."

_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
_SOCKET_SCHEMES: Final = ("ws://", "wss://")


class Origins:
    """The pages that may connect: those of a list or, without one, the gateway's own.

    An entry is ``scheme://host`` or ``scheme://host:port``; ``scheme://*.host`` stands for every
    name below ``host``, one label or more, and not for ``host`` itself (as in a CSP).

    :raises ConfigurationError: an entry can be no page's origin.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._exact: set[str] = set()
        self._below: list[tuple[str, str]] = []
        for entry in allowed:
            scheme, separator, rest = entry.partition("://")
            below = rest.startswith(ANY_SUBDOMAIN)
            origin = canonical(scheme + separator + rest.removeprefix(ANY_SUBDOMAIN))
            if origin is None or "*" in origin or origin.startswith(_SOCKET_SCHEMES):
                raise _impossible(entry)
            if below:
                scheme, separator, host = origin.partition("://")
                self._below.append((scheme + separator, f".{host}"))
            else:
                self._exact.add(origin)

    def allow(self, sent: Sequence[str], *, scheme: str | None, host: str) -> bool:
        """Whether a request may come in that carries these ``Origin`` headers.

        ``host`` is the host and port by which the client knows the gateway, ``scheme`` its http or
        https; None when nobody knows it (TLS may have ended at a proxy that says nothing): then
        the page's own is taken for it. More than one header, ``null`` and what is no origin are
        refused.
        """
        if not sent:
            return True
        origin = canonical(sent[0])
        if origin is None or len(sent) > 1:
            return False
        if self._exact or self._below:
            return origin in self._exact or any(
                origin.startswith(start) and origin.endswith(end)
                for start, end in self._below
                if len(origin) > len(start) + len(end)
            )
        return canonical(f"{scheme or origin.partition('://')[0]}://{host}") == origin


def canonical(origin: str) -> str | None:
    """The origin in lower case, without a default port; None when it is none."""
    found = _ORIGIN.fullmatch(origin.lower())
    if found is None:
        return None
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    if port is None:
        return f"{scheme}://{host}"
    port = str(int(port))
    if int(port) not in range(1, 1 << 16):
        return None
    return f"{scheme}://{host}" + ("" if port == DEFAULT_PORTS.get(scheme) else f":{port}")


def _impossible(entry: str) -> ConfigurationError:
    """Why no browser ever sends this, or why it must not be allowed."""
    why, todo = "it is not scheme://host or scheme://host:port", "Write it as https://chat.example."
    bare = canonical(entry.rstrip("/"))
    if entry == "*":
        why = "any page on the Internet could then act for a user who is logged in"
        todo = "List the pages, as https://chat.example; https://*.example.com means all below it."
    elif entry == "null":
        why = "files and sandboxed frames of anybody have this origin"
        todo = "Serve the page from an address and list that."
    elif entry.lower().startswith(_SOCKET_SCHEMES):
        why = "it is the address of a socket, and the origin of a page is wanted"
        todo = f"Write http{entry[2:]}."
    elif bare is not None:
        why, todo = "an origin has no path, not even a slash at its end", f"Write {bare}."
    elif not entry.isascii():
        why = "browsers send international names in their ASCII form"
        todo = "Write the name as xn--…."
    return ConfigurationError(setting="RUNCAST_ALLOWED_ORIGINS", why=f"{entry!r}: {why}", todo=todo)
