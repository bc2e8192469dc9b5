"""The code blocks of a page of the documentation that bear a file's name in their first line."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def snippet(page: str, name: str) -> str:
    """The block named ``name``, without that line."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks: list[tuple[str, str]] = re.findall(
        r"^```\w+\n(.*?)\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    return next(body for head, body in blocks if name in head.split())
