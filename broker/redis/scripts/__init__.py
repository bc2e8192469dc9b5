"""The named scripts. Each ``.lua`` file's header tells its keys, arguments and replies.

``-- include: names`` stands for what is in these files. Redis makes the functions in it anew
whenever it gets there, so what is seldom needed is included where it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from importlib.resources import files
from typing import Final

_INCLUDE: Final = re.compile(r"^ *-- include: (.+)\n", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """A script's name, and its source with what it includes."""

    name: str
    source: bytes

    @cached_property
    def digest(self) -> str:
        """What EVALSHA takes. Redis names scripts by SHA-1; nothing about security hangs on it."""
        return sha1(self.source, usedforsecurity=False).hexdigest()

    @cached_property
    def sharded(self) -> Script:
        """The same for a Cluster, where a live channel is in its slot like a key."""
        return Script(self.name, self.source.replace(b"call('PUBLISH'", b"call('SPUBLISH'"))


def _load(name: str) -> Script:
    folder = files(__package__)

    def read(each: str) -> str:
        return (folder / f"{each}.lua").read_text(encoding="utf-8")

    source = _INCLUDE.sub(lambda line: "".join(map(read, line[1].split())), read(name))
    return Script(name, source.encode())


REGISTER: Final = _load("register")
CLAIM: Final = _load("claim")
PUBLISH: Final = _load("publish")
DELTA: Final = _load("delta")
RECALL: Final = _load("recall")
RENEW: Final = _load("renew")
STOP: Final = _load("stop")
ANSWER: Final = _load("answer")
COLLECT: Final = _load("collect")
RELEASE: Final = _load("release")
EXPIRE: Final = _load("expire")
RETIRE: Final = _load("retire")
REVOKE: Final = _load("revoke")
ORDER: Final = _load("order")
ADMIT: Final = _load("admit")
TAKE: Final = _load("take")
UNTAKE: Final = _load("untake")
ASIDE: Final = _load("aside")
TRACE: Final = _load("trace")
ALL: Final = (
    REGISTER, CLAIM, PUBLISH, RECALL, DELTA, RENEW, STOP, ANSWER, COLLECT, RELEASE, EXPIRE, RETIRE,
    REVOKE, ORDER, ADMIT, TAKE, UNTAKE, ASIDE, TRACE,
)  # fmt: skip
SHARDED: Final = tuple(each.sharded for each in ALL)
