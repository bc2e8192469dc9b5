"""What goes into an agent and its tools, in the forms that frameworks and events want."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def user_text(content: Any) -> str:
    """What the user sent, as the text of a user's message.

    An object becomes JSON, never messages of a framework: among those the user could be anyone.
    """
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def parameters_of(arguments: str | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a model calls a tool with; text that is no JSON object is its ``input``."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        found = json.loads(arguments or "{}")
    except ValueError:
        found = arguments
    return found if isinstance(found, dict) else {"input": found}
