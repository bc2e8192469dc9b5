"""Values of other people's code as events can carry them: JSON, and not too large.

A tool's result that is no JSON must not make the tool a failure, nor one that is larger than an
event: it is shown as well as it can be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import date, time
from enum import Enum
from numbers import Integral
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel

from broker.errors import ConfigurationError

MAX_DEPTH: Final = 12
"""Deeper than what people read; ends what contains itself."""

PREVIEW_CHARACTERS: Final = 500
"""Of a value that is too large: enough to know it again, and under the smallest event limit."""

HIDDEN: Final = "[hidden]"


def check_json(setting: str, value: object) -> None:
    """:class:`ConfigurationError` unless ``value`` can be sent as JSON as it is."""
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ConfigurationError(
            setting=setting, why=f"is not JSON: {error}", todo="Give it as JSON's own types."
        ) from error


def shown(value: Any, *, max_bytes: int) -> Any:
    """A copy of ``value`` as JSON; of one that is over ``max_bytes`` as JSON, its beginning."""
    found = jsonable(value)
    encoded = orjson.dumps(found)
    if len(encoded) <= max_bytes:
        return found
    text = found if isinstance(found, str) else encoded.decode()
    return f"{text[:PREVIEW_CHARACTERS]}… ({len(encoded)} bytes in all)"


def hide(parameters: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """``parameters`` with the values of these names left out."""
    secret = frozenset(names)
    return {key: HIDDEN if key in secret else value for key, value in parameters.items()}


def jsonable(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A copy of ``value`` of JSON's own types. What has no JSON of its own becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float | Integral):
        return _number(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(bytes(value))} bytes"
    if isinstance(value, date | time | UUID):
        return str(value)
    if isinstance(value, Enum):
        return jsonable(value.value, depth - 1)
    try:
        return _composed(value, depth) if depth > 0 else "…"
    except Exception:  # noqa: BLE001 - a value of the agent's own, which is not all there
        return _text_of(value)


def _number(value: float | Integral) -> Any:
    """Of Python's own kinds: what else is a number, as NumPy's are, is none to a JSON library."""
    if isinstance(value, float):
        return float(value)
    number = int(value)
    return number if -(2**63) <= number < 2**64 else str(number)


def _composed(value: Any, depth: int) -> Any:
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_text_of(key): jsonable(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(each, depth - 1) for each in value]
    return _text_of(value)


def _text_of(value: Any) -> str:
    try:
        return str(value).encode("utf-8", "replace").decode()
    except Exception:  # noqa: BLE001 - a value of the agent's own, which cannot even be told
        return f"<{type(value).__name__}>"
