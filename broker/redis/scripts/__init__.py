"""The named scripts. Each ``.lua`` file's header tells its keys, arguments and replies."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Final

_INCLUDE: Final = "-- include: "


@dataclass(frozen=True, slots=True)
class Script:
    """A script's name, its source with what it includes, and the digest that EVALSHA takes."""

    name: str
    source: bytes
    digest: str


def _load(name: str) -> Script:
    folder = files(__package__)
    text = (folder / f"{name}.lua").read_text(encoding="utf-8")
    first, _, rest = text.partition("\n")
    if first.startswith(_INCLUDE):
        included = (folder / f"{first.removeprefix(_INCLUDE)}.lua").read_text(encoding="utf-8")
        text = included + rest
    source = text.encode()
    # Redis names scripts by SHA-1; nothing about security hangs on it.
    return Script(name, source, sha1(source, usedforsecurity=False).hexdigest())


REGISTER: Final = _load("register")
CLAIM: Final = _load("claim")
PUBLISH: Final = _load("publish")
DELTA: Final = _load("delta")
RENEW: Final = _load("renew")
STOP: Final = _load("stop")
RELEASE: Final = _load("release")
EXPIRE: Final = _load("expire")
ALL: Final = (REGISTER, CLAIM, PUBLISH, DELTA, RENEW, STOP, RELEASE, EXPIRE)
