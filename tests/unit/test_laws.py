"""The laws of the house (docs: design), checked on the source; each check is shown able to fail."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("broker", "gateway", "agents_sdk")
SCRIPTS: Final = ROOT / "broker" / "redis" / "scripts"

MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    "broker": frozenset({"broker"}),
    "gateway": frozenset({"gateway", "broker"}),
    "agents_sdk": frozenset({"agents_sdk", "broker"}),
}
"""Package → those of the three that it may import."""

SHELLS: Final = frozenset({"broker.config", "broker.embedded", "broker.logs", "broker.rhythm"})
"""The modules of the kernel's top level that touch the world, and may."""

PURE_GATEWAY: Final = (
    "session", "hub", "feed", "outbox", "close_codes", "frames", "frame_reader", "handshake",
    "claims", "departures", "freshness", "jwk", "keys", "origins", "proxies", "run_outbox", "wires",
    "repeats", "run_texts", "event_batch", "batch_plan", "dialects.dialect", "dialects.native",
    "dialects.shown_text",
    "dialects.agui", "dialects.agui_constructs", "dialects.agui_events", "dialects.agui_position",
    "dialects.agui_request", "dialects.agui_thread",
    "dialects.ai_sdk", "dialects.ai_sdk_message", "dialects.ai_sdk_request",
    "stats", "metrics", "position", "bench.account", "bench.histogram", "bench.pacing",
    "bench.plan", "bench.report", "bench.verdict", "bench.wire",
    "run_view", "slow",
    "dialects.cloudevents", "webhooks.answers", "webhooks.backlog", "webhooks.signature",
)  # fmt: skip
OPTIONAL: Final[Mapping[str, frozenset[str]]] = {
    "opentelemetry": frozenset({"broker.tracing.tracer", "agents_sdk.integrations.otel"}),
}
"""Package of an extra → the modules that import it; nobody imports those until they are used."""

IMPURE: Final = frozenset({
    "asyncio", "aiohttp", "redis", "os", "time", "random", "secrets", "uuid", "socket", "threading",
    "subprocess", "logging", "sys",
})  # fmt: skip
CLOCKS: Final = frozenset({"now", "utcnow", "today"})

MOST_LINES: Final = 350
MEDIAN_LINES: Final = 150
REASON_WITHIN: Final = 15
REASON: Final = re.compile(r"\b(long|longer|length|lines)\b", re.IGNORECASE)

RAISED: Final = re.compile(r"(?:error_reply\(|why(?:, about)? = )'(\w+)")
"""Where a script's codes of errors stand."""

CREATES: Final = ("APPEND", "HINCRBY", "HSET", "RPUSH", "SADD", "SET", "XADD", "ZADD")
SHARED: Final = frozenset({"append", "asks", "bucket", "find", "now", "thread"})
"""Parts of scripts, included by those that name them in their first line."""

LIVES_ALREADY: Final[Mapping[tuple[str, str], str]] = {
    ("claim", "fields[4]"): "with XX it changes what a registration has put there, with its TTL",
    ("claim", "KEYS[2]"): "a queued run is in the leases since its registration, with their TTL",
    ("release", "KEYS[2]"): "a held run is in the leases since its registration",
    ("stop", "KEYS[2]"): "an open run is in the leases; each renewal renews their TTL",
}
"""(script, key) that it writes to without a TTL → why the key has one."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, str]:
    """Module → its source, of all three packages."""
    return {
        module_name(path): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def pure_modules() -> list[str]:
    kernel = sorted(module_name(p) for p in (ROOT / "broker").glob("*.py"))
    return [
        *(name for name in kernel if name != "broker" and name not in SHELLS),
        *(f"gateway.{name}" for name in PURE_GATEWAY),
    ]


def imports(source: str, module: str) -> Iterator[str]:
    """Every module that the source imports: at the top, in functions, relative, by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.rsplit(".", node.level)[0] if node.level else ""
            origin = ".".join(part for part in (package, node.module) if part)
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            name = node.args[0]
            if called.endswith(("import_module", "__import__")) and isinstance(name, ast.Constant):
                yield str(name.value)


def imports_when_imported(source: str, module: str) -> set[str]:
    """The same, of those that importing the module imports."""
    tree = ast.parse(source)
    now = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return set(imports(ast.unparse(ast.Module(now, [])), module))


def import_breaches(module: str, source: str) -> set[str]:
    """Which of the three packages the module imports although it must not."""
    roots = {name.partition(".")[0] for name in imports(source, module)}
    return roots & set(PACKAGES) - MAY_IMPORT[module.partition(".")[0]]


def purity_breaches(module: str, source: str, pure: set[str]) -> set[str]:
    """What a pure module imports or calls that is not."""
    found = set()
    for name in imports(source, module):
        if name.partition(".")[0] in IMPURE or name.startswith("broker.redis"):
            found.add(name)
        known = name in sources_cached()
        if known and name.partition(".")[0] in PACKAGES and name not in (*pure, *PACKAGES):
            found.add(name)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            found.add(ast.unparse(node))
    return found


def sources_cached() -> dict[str, str]:
    if not _CACHE:
        _CACHE.update(sources())
    return _CACHE


_CACHE: dict[str, str] = {}


def without_a_test(modules: list[str], tests: set[str]) -> list[str]:
    """The modules that no test file is named after."""
    return [name for name in modules if f"test_{name.rsplit('.', 1)[-1]}.py" not in tests]


def too_long(source: str) -> bool:
    """Over the limit, and no word about it at the top."""
    lines = source.splitlines()
    return len(lines) > MOST_LINES and not REASON.search("\n".join(lines[:REASON_WITHIN]))


# --- scripts


def header_of(source: str) -> str:
    lines = source.splitlines()
    until = next((at for at, line in enumerate(lines) if not line.startswith("--")), len(lines))
    return "\n".join(lines[:until])


def numbered(header: str, word: str) -> set[int]:
    """The numbers that the header gives to keys or arguments."""
    section = re.search(rf"^-- {word} (.*?)(?=^-- [A-Z]|\Z)", header, re.MULTILINE | re.DOTALL)
    if section is None:
        return set()
    text = "  " + re.sub(r'"[^"]*"', '""', section[1])
    return {int(number) for number in re.findall(r"(?:^|\s\s|--\s+)(\d+)(?=…?\s)", text)}


def header_breaches(source: str) -> list[str]:
    """What a script's header does not tell: keys, arguments, reply, errors."""
    header, body = header_of(source), source.removeprefix(header_of(source))
    missing = [
        word
        for word in ("KEYS", "ARGV", "Reply")
        if not re.search(rf"^-- {word} ", header, re.MULTILINE)
    ]
    for word in ("KEYS", "ARGV"):
        used = {int(n) for n in re.findall(rf"{word}\[(\d+)\]", body)}
        used |= {int(n) for n in re.findall(rf"unpack\({word}, (\d+)", body)}
        told = numbered(header, word)
        missing += [f"{word}[{n}]" for n in sorted(used ^ told)]
    missing += [code for code in RAISED.findall(body) if code not in header]
    return missing


def aliases(body: str) -> dict[str, str]:
    """``local run, log = KEYS[1], KEYS[2]`` → what each name stands for."""
    known: dict[str, str] = {}
    for names, values in re.findall(r"local ([\w, ]+) = ((?:KEYS\[\d+\](?:, )?)+)", body):
        known.update(zip(names.split(", "), values.split(", "), strict=False))
    return known


def ttl_breaches(name: str, source: str) -> set[str]:
    """Keys that a script may create and gives no TTL. A key that it has read before has one."""
    body = source.removeprefix(header_of(source))
    known = aliases(body)
    created, kept = set(), set()
    for found in re.finditer(r"redis\.call\('(\w+)', ([\w\[\]]+)([^\n]*)", body):
        command, key, rest = found[1], known.get(found[2], found[2]), found[3]
        lives = "'EX'" in rest or "'PX'" in rest
        if command in ("EXPIRE", "PEXPIRE", "HMGET", "ZSCORE") or (command == "SET" and lives):
            kept.add(key)
        elif command in CREATES:
            created.add(key)
    return {key for key in created - kept if (name, key) not in LIVES_ALREADY}


def scripts() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(SCRIPTS.glob("*.lua"))}


# --- the laws


@pytest.mark.parametrize("module", sources_cached())
def test_imports_go_from_the_edges_to_the_kernel_only(module: str) -> None:
    """``agents_sdk → broker ← gateway``: the two never import each other, the kernel neither."""
    assert import_breaches(module, sources_cached()[module]) == set()


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("broker.codec", "import gateway.hub", "gateway"),
        ("broker.redis.log", "def f():\n    from agents_sdk import run", "agents_sdk"),
        ("gateway.app", "if TYPE_CHECKING:\n    import agents_sdk.run as r", "agents_sdk"),
        ("agents_sdk.run", "import importlib\nimportlib.import_module('gateway.hub')", "gateway"),
        ("agents_sdk.run", "__import__('gateway')", "gateway"),
    ],
)
def test_a_planted_import_is_found(module: str, source: str, breach: str) -> None:
    """The check sees imports in functions, under conditions and by name."""
    assert import_breaches(module, source) == {breach}


@pytest.mark.parametrize(
    ("module", "source"),
    [("gateway.app", "from broker.codec import Entry\nfrom . import hub"), ("broker.codec", "x=1")],
)
def test_a_lawful_import_is_not_complained_of(module: str, source: str) -> None:
    """A check that always fails would prove nothing either."""
    assert import_breaches(module, source) == set()


@pytest.mark.parametrize("package", OPTIONAL)
def test_what_is_optional_is_imported_where_it_is_used_and_by_nobody_before(package: str) -> None:
    """Not by these modules' importers either, but in functions and for types."""
    wanting = {
        name
        for name, source in sources_cached().items()
        if any(each.partition(".")[0] == package for each in imports(source, name))
    }
    assert wanting == OPTIONAL[package]
    for name, source in sources_cached().items():
        assert not wanting & set(imports_when_imported(source, name)) - {name}, name


@pytest.mark.parametrize("module", pure_modules())
def test_pure_modules_import_nothing_impure(module: str) -> None:
    """Bytes and values in, values out: no loop, no socket, no clock, no chance, no environment."""
    assert purity_breaches(module, sources_cached()[module], set(pure_modules())) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio", "from time import time", "import redis.asyncio",
        "def f():\n    import os",
        "from broker.redis.log import Log", "from broker.config import Settings",
        "from broker import config", "from datetime import datetime\nx = datetime.now()",
        "import random as dice", "from gateway.relay import Relay",
    ],
)  # fmt: skip
def test_a_planted_impurity_is_found(source: str) -> None:
    """Directly, in a function, under another name, or through a shell of our own."""
    assert purity_breaches("broker.replay", source, set(pure_modules()))


@pytest.mark.parametrize("module", sorted(SHELLS))
def test_the_shells_are_shells(module: str) -> None:
    """A module that is excepted without need hides what it may import tomorrow."""
    assert purity_breaches(module, sources_cached()[module], set(pure_modules()))


def test_every_pure_module_has_a_test_file_of_its_own() -> None:
    """Unit tests mirror the pure modules."""
    tests = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    assert without_a_test(pure_modules(), tests) == []
    assert without_a_test(["broker.codec", "broker.new"], tests) == ["broker.new"]
    assert {"broker.replay", "broker.lifecycle", "gateway.hub"} <= set(pure_modules())


@pytest.mark.parametrize("module", sources_cached())
def test_a_long_module_says_why_at_its_top(module: str) -> None:
    """None above 350 lines without a reason in its first lines."""
    assert not too_long(sources_cached()[module]), f"{module}: split it, or say why it is long"


def test_modules_are_short_in_the_median() -> None:
    """150 lines: all pain sits in the tail."""
    sizes = [len(source.splitlines()) for source in sources_cached().values() if source.strip()]
    assert statistics.median(sizes) <= MEDIAN_LINES


def test_a_module_that_is_too_long_is_found() -> None:
    """With its reason at the top it passes, with the reason further down it does not."""
    body = "x = 1\n" * MOST_LINES
    assert not too_long(body)
    assert too_long(body + "x = 1\n")
    assert not too_long('"""Long, because it is one table."""\n' + body)
    assert too_long(body + "# long, because it is one table\n")


@pytest.mark.parametrize("name", sorted(set(scripts()) - SHARED))
def test_a_scripts_header_tells_keys_arguments_reply_and_errors(name: str) -> None:
    """By number, exactly those that the script uses."""
    assert header_breaches(scripts()[name]) == []


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_scripts_share_tells_its_functions(name: str) -> None:
    """The included part has no keys of its own: it is handed them."""
    shared = scripts()[name]
    functions = re.findall(r"^local function (\w+)\(", shared, re.MULTILINE)
    assert functions
    assert all(f"-- {name}(" in header_of(shared) for name in functions)
    assert not re.search(r"\b(KEYS|ARGV)\[", shared)


HEADED = "-- Do it.\n--\n-- KEYS  1 run\n-- ARGV  1 id  2 ttl\n-- Reply nothing\n"
DONE = "redis.call('HSET', KEYS[1], ARGV[1], 1)\nredis.call('EXPIRE', KEYS[1], ARGV[2])\n"


@pytest.mark.parametrize(
    ("source", "breaches"),
    [
        (HEADED + DONE, []),
        (DONE, ["KEYS", "ARGV", "Reply", "KEYS[1]", "ARGV[1]", "ARGV[2]"]),
        (HEADED.replace("-- Reply nothing\n", "") + DONE, ["Reply"]),
        (HEADED + DONE + "redis.call('DEL', KEYS[2])", ["KEYS[2]"]),
        (HEADED.replace("2 ttl", "2 ttl  3 more") + DONE, ["ARGV[3]"]),
        (HEADED + DONE + "return redis.error_reply('FENCED ' .. 1)", ["FENCED"]),
        (HEADED + DONE + "why, about = 'SEQ_GAP', 1", ["SEQ_GAP"]),
    ],
)
def test_a_header_that_tells_too_little_or_too_much_is_found(
    source: str, breaches: list[str]
) -> None:
    """Missing sections, unnamed or unused numbers, untold errors."""
    assert header_breaches(source) == breaches


@pytest.mark.parametrize("name", scripts())
def test_every_key_that_a_script_makes_has_a_ttl(name: str) -> None:
    """``EXPIRE`` or ``EX`` beside the write, or the key was there before, with its TTL."""
    assert ttl_breaches(name, scripts()[name]) == set()


@pytest.mark.parametrize(
    ("source", "breaches"),
    [
        (DONE, set()),
        ("redis.call('HSET', KEYS[1], 'a', 1)", {"KEYS[1]"}),
        ("local run, log = KEYS[1], KEYS[2]\nredis.call('XADD', log, '*', 'e', 1)", {"KEYS[2]"}),
        ("redis.call('SET', KEYS[1], 1)", {"KEYS[1]"}),
        ("redis.call('SET', KEYS[1], 1, 'EX', 5)", set()),
        ("redis.call('SET', KEYS[1], 1, 'PX', 5)", set()),
        ("redis.call('HSET', KEYS[1], 'a', 1)\nredis.call('PEXPIRE', KEYS[1], 5)", set()),
        ("redis.call('SADD', KEYS[1], 1)\nredis.call('EXPIRE', KEYS[2], 5)", {"KEYS[1]"}),
        ("redis.call('HMGET', KEYS[1], 'a')\nredis.call('HSET', KEYS[1], 'a', 1)", set()),
    ],
)
def test_a_key_without_a_ttl_is_found(source: str, breaches: set[str]) -> None:
    """Under whatever local name it is written."""
    assert ttl_breaches("planted", source) == breaches


def test_the_exceptions_are_still_needed() -> None:
    """An exception that no script needs would hide the next mistake."""
    for name, key in LIVES_ALREADY:
        body = scripts()[name].removeprefix(header_of(scripts()[name]))
        assert f"'ZADD', {key}" in body
        assert f"'EXPIRE', {key}" not in body


def test_scripts_live_in_files_of_their_own() -> None:
    """No Lua in Python: what changes Redis in several steps has a name and a header."""
    lua = [name for name, source in sources_cached().items() if "redis.call(" in source]
    assert lua == []
    loaded = sources_cached()["broker.redis.scripts"]
    assert all(f'_load("{name}")' in loaded for name in scripts() if name not in SHARED)
