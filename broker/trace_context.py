"""Where in a trace something belongs, as text: W3C Trace Context, https://www.w3.org/TR/trace-context/.

It needs no OpenTelemetry: what a client sends is carried to its agent, whoever records spans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_STATE_CHARACTERS: Final = 512
"""Longest ``tracestate`` that is carried: what section 3.3.1.5 asks for at least."""

MAX_STATE_MEMBERS: Final = 32

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY: Final = r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER: Final = re.compile(
    rf"({_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_KNOWN: Final = "00"
_FORBIDDEN: Final = "ff"
_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span that others belong to, as the two headers tell it.

    ``of_client``: a client says so, and nobody has judged yet whether it is to be recorded.
    """

    traceparent: str
    tracestate: str = ""
    of_client: bool = False

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def flags(self) -> int:
        """The lowest bit says whether its maker may have recorded it."""
        return int(self.traceparent[53:55], 16)

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return self.traceparent[36:52]

    def stored(self) -> dict[str, Any]:
        """As a run's record has it: see :func:`from_stored`."""
        told: dict[str, Any] = {"traceparent": self.traceparent}
        if self.tracestate:
            told["tracestate"] = self.tracestate
        if self.of_client:
            told["of_client"] = True
        return told


def read(
    traceparent: object, tracestate: object = None, *, of_client: bool = False
) -> TraceContext | None:
    """The context that the two tell; None when there is none, or ``traceparent`` is malformed.

    A malformed one is as if it were not there (section 4.3), and so is a malformed or too long
    ``tracestate``. Of a version that is not known yet only what is known is taken, as version 00.
    """
    if not isinstance(traceparent, str):
        return None
    found = _PARENT.fullmatch(traceparent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _FORBIDDEN or (version == _KNOWN and more) or not int(trace_id, 16):
        return None
    if not int(span_id, 16):
        return None
    if version != _KNOWN:
        flags = f"{int(flags, 16) & _SAMPLED:02x}"
    state = _state(tracestate) if isinstance(tracestate, str) else ""
    return TraceContext(f"{_KNOWN}-{trace_id}-{span_id}-{flags}", state, of_client)


def of_headers(
    traceparents: Sequence[str], tracestates: Sequence[str], *, of_client: bool
) -> TraceContext | None:
    """The same of all values of the two headers: one ``traceparent``, any number of the other."""
    if len(traceparents) != 1:
        return None
    return read(traceparents[0], ",".join(tracestates), of_client=of_client)


def from_stored(told: object) -> TraceContext | None:
    """The inverse of :meth:`TraceContext.stored`; None for anything else."""
    if not isinstance(told, dict):
        return None
    return read(
        told.get("traceparent"), told.get("tracestate"), of_client=bool(told.get("of_client"))
    )


def _state(text: str) -> str:
    members = [each.strip(" \t") for each in text.split(",")]
    members = [each for each in members if each]
    state = ",".join(members)
    if len(members) > MAX_STATE_MEMBERS or len(state) > MAX_STATE_CHARACTERS:
        return ""
    found = [_MEMBER.fullmatch(each) for each in members]
    keys = [each[1] for each in found if each is not None]
    return state if len(keys) == len(members) == len(set(keys)) else ""
