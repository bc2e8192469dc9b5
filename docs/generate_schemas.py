"""The three documents for tools: JSON Schema, AsyncAPI and OpenAPI, as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from docs import schema_asyncapi, schema_frames, schema_openapi

_REFERENCE: Final = Path(__file__).resolve().parent / "reference"


def _text(document: Callable[[], Any]) -> Callable[[], str]:
    return lambda: json.dumps(document(), indent=1, ensure_ascii=True) + "\n"


FILES: Final[Mapping[Path, Callable[[], str]]] = {
    _REFERENCE / "frames.schema.json": _text(schema_frames.document),
    _REFERENCE / "asyncapi.json": _text(schema_asyncapi.document),
    _REFERENCE / "openapi.json": _text(schema_openapi.document),
}
"""File → its text."""
