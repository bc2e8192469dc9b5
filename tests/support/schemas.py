"""The schema of frames as it is published, and frames judged by it."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.support.clients import Client, Frame

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
OPEN = frozenset({"pong"})
"""What a client sent comes back in it, so it may have any field."""


@cache
def published(name: str) -> dict[str, Any]:
    """A document of docs/reference."""
    document: dict[str, Any] = json.loads((REFERENCE / name).read_text("utf-8"))
    return document


@cache
def validator(name: str, *, closed: bool = False) -> Draft202012Validator:
    """Judges by one definition. ``closed``: a field that is not in the schema is wrong, too."""
    definitions = published("frames.schema.json")["$defs"]
    if closed:
        definitions = {
            each: schema if each.removeprefix("legacy_") in OPEN else _closed(schema)
            for each, schema in definitions.items()
        }
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def problems(frame: object, name: str, *, closed: bool = False) -> list[str]:
    """What is wrong with a frame; nothing, if all is well."""
    found = validator(name, closed=closed).iter_errors(frame)
    return [f"{error.json_path}: {error.message:.300}" for error in found]


def undescribed(frames: Iterable[Frame], *, legacy: bool = False) -> list[Any]:
    """Frames of a server that are not in the schema, or have a field that is not, and why."""
    named = "legacy_" if legacy else ""
    known = published("frames.schema.json")["$defs"]
    found: list[Any] = []
    for frame in frames:
        name = f"{named}{frame['type']}"
        # By its type's own definition for what is wrong, by the union because it has to be in it.
        why = problems(frame, name, closed=True) if name in known else ["unknown type"]
        why += [] if validator(f"{named}server_frame").is_valid(frame) else ["in no union"]
        if why:
            found.append((frame, why))
    return found


class Judged(Client):
    """A client that notes what it sends as well."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.sent: list[Frame] = []

    async def send(
        self, kind: str, payload: Frame | None = None, *, ref: str | None = None
    ) -> None:
        await super().send(kind, payload, ref=ref)
        frame: Frame = {"type": kind, "payload": payload or {}}
        self.sent.append(frame if ref is None else {**frame, "id": ref})

    def undescribed(self) -> list[Any]:
        """Of either direction."""
        legacy = "mode=legacy" in self.url
        sent = "legacy_client_frame" if legacy else "client_frame"
        asked = [(frame, why) for frame in self.sent if (why := problems(frame, sent))]
        return undescribed(self.frames, legacy=legacy) + asked


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {
        key: value if key in ("if", "then", "not") else _closed(value)
        for key, value in schema.items()
    }
    if isinstance(schema.get("properties"), Mapping) and schema.get("type") == "object":
        made["additionalProperties"] = False
    return made
