"""What the browser client and the rest of the program must agree on."""

import gzip
import json
import re
import tomllib
from pathlib import Path

import pytest

from docs import generate_types
from gateway.close_codes import CLOSE_CODES, Reconnect

ROOT = Path(__file__).parents[2]
WEB = ROOT / "gateway" / "web"
PACKAGE = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
MOST_BYTES = 8192

THEN = {
    Reconnect.NO: {"stop"},
    Reconnect.TOLD: {"told"},
    Reconnect.RENEWED: {"renew"},
    Reconnect.CURSOR: {"backoff"},
    Reconnect.LATER: {"later"},
    Reconnect.BACK_OFF: {"backoff"},
}
"""What the gateway's table says a client does → the browser client's word for it."""


@pytest.mark.parametrize("name", ["runcast.js", "runcast-tabs.js", "runcast-sse.js"])
def test_each_part_of_the_client_is_small(name: str) -> None:
    size = len(gzip.compress((WEB / name).read_bytes(), 9))
    assert size < (MOST_BYTES if name == "runcast.js" else MOST_BYTES // 2), f"{size} bytes"


def test_the_event_types_are_those_of_the_schema() -> None:
    text = generate_types.FILE.read_text(encoding="utf-8")
    assert text == generate_types.event_types(), "stale; run: python docs/generate.py"


def test_the_package_has_the_products_version() -> None:
    product = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (PACKAGE["version"], PACKAGE["license"]) == (product["version"], product["license"])


def test_the_package_has_what_it_exports_and_nothing_beside_it_depends_on_a_package() -> None:
    named = [path for export in PACKAGE["exports"].values() for path in _paths(export)]
    packed = {path.name for pattern in PACKAGE["files"] for path in WEB.glob(pattern)}
    for path in named:
        name = path.removeprefix("./")
        assert (WEB / name).is_file()
        assert name in {*packed, "package.json"}
    imported = {
        name
        for file in packed
        for name in re.findall(r"""(?:from |import\()"([^"]+)\"""", (WEB / file).read_text("utf-8"))
    }
    assert {name for name in imported if not name.startswith("./")} == {"react"}
    for name in imported - {"react"}:
        assert {name.removeprefix("./"), name[2:].replace(".js", ".d.ts")} & packed
    assert "dependencies" not in PACKAGE


def test_the_client_knows_every_close_code() -> None:
    source = (WEB / "runcast.js").read_text(encoding="utf-8")
    table = source.partition("CLOSE_CODES = Object.freeze({")[2].partition("})")[0]
    rows = re.findall(r'(\d{4}): "(\w+)", // (.+)', table)
    assert {int(code): name for code, _, name in rows} == {
        row.code: row.name for row in CLOSE_CODES.values()
    }
    for code, then, _ in rows:
        assert then in THEN[CLOSE_CODES[int(code)].reconnect]


def _paths(export: str | dict[str, str]) -> list[str]:
    return [export] if isinstance(export, str) else list(export.values())
