"""The documentation agrees with the code, and with itself."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from broker.config import ENV_PREFIX, Settings
from docs import generate, log_events
from gateway.cli import program

ROOT = Path(__file__).parents[2]
PAGES = generate.pages()
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
SETTING = re.compile(rf"\b{ENV_PREFIX}([A-Z][A-Z_]*[A-Z])\b")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
TEST_FILE = re.compile(r"\btests/[\w/]+\.py\b")
TEST_NAME = re.compile(r"`(test_\w+)`")
TEST_ID = re.compile(r"\b(tests/[\w/]+\.py)::(\w+)")
MODULE = re.compile(r"`((?:broker|gateway|agents_sdk)(?:[/.][\w/.]+)?)`")
TARGET = re.compile(r"\bmake ([a-z]+)\b")


@pytest.fixture(params=PAGES, ids=NAMES)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def prose(path: Path) -> str:
    return FENCED.sub("", path.read_text(encoding="utf-8"))


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors(path: Path) -> frozenset[str]:
    found: list[str] = []
    for heading in HEADING.findall(prose(path)):
        name = anchor(heading)
        again = found.count(name)
        found.append(f"{name}-{again}" if again else name)
    return frozenset(found)


@cache
def command_options() -> dict[str, frozenset[str]]:
    group = get_command(program())
    assert isinstance(group, typer.core.TyperGroup)
    return {
        name: frozenset(option for parameter in command.params for option in parameter.opts)
        for name, command in group.commands.items()
    }


@pytest.mark.timeout(300)  # one of them draws a figure: on a busy machine that took two minutes
def test_generated_parts_are_what_the_code_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.generated(text) == text, "stale; run: python docs/generate.py"


@pytest.mark.parametrize("file", generate.FILES, ids=lambda path: path.name)
def test_generated_files_are_what_the_code_says(file: Path) -> None:
    assert generate.FILES[file]() == file.read_text("utf-8"), "run: python docs/generate.py"


def test_every_generated_table_stands_somewhere() -> None:
    everything = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in generate.SECTIONS:
        assert f"<!-- generated: {name} -->" in everything


def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{target} does not exist"
        assert path.is_relative_to(ROOT), f"{target} is outside of the repository"
        if fragment:
            assert fragment in anchors(path), f"{target}: no such heading"


def rows_unlike_their_head(text: str) -> list[str]:
    """Rows of tables with more cells, or fewer, than the first of their table."""
    wanted, found = 0, []
    for line in text.splitlines():
        cells = CODE.sub("", line).replace(r"\|", "").count("|") if line.startswith("|") else 0
        if cells and wanted and cells != wanted:
            found.append(line)
        wanted = (wanted or cells) if cells else 0
    return found


def test_rows_of_tables_have_the_cells_that_their_head_has(page: Path) -> None:
    assert rows_unlike_their_head(prose(page)) == []


def test_a_row_with_a_cell_too_many_is_found() -> None:
    table = "| a | b |\n| --- | --- |\n| `x|y` | z |\n| x || y |\n\n| one |\n| --- |"
    assert rows_unlike_their_head(table) == ["| x || y |"]


def test_settings_exist(page: Path) -> None:
    for name in SETTING.findall(page.read_text(encoding="utf-8")):
        assert name.lower() in Settings.model_fields, f"{ENV_PREFIX}{name}"


def test_commands_and_their_options_exist(page: Path) -> None:
    in_code = re.findall(r"`(runcast [^`\n]+)`", page.read_text(encoding="utf-8"))
    in_blocks = [
        line
        for block in FENCED.findall(page.read_text(encoding="utf-8"))
        for line in re.findall(r"runcast [a-z]+[^;|\n]*", block)
    ]
    for line in [*in_code, *in_blocks]:
        name, _, rest = line.removeprefix("runcast ").partition(" ")
        if name.startswith("-") or not name.islower() or not name.isalpha():
            continue
        assert name in command_options(), line
        for option in OPTION.findall(rest):
            assert option in command_options()[name], line


def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    blocks = "\n".join(FENCED.findall(page.read_text(encoding="utf-8")))
    code = "\n".join(CODE.findall(prose(page)))
    for target in TARGET.findall(blocks + code):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_named_tests_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for file in TEST_FILE.findall(text):
        assert (ROOT / file).is_file(), file
    suites = (ROOT / "tests").rglob("*.py")
    names = set(TEST_NAME.findall(text)) - {"test_v3_websocket_functionality"}
    if names:
        everything = "".join(path.read_text(encoding="utf-8") for path in suites)
        for name in names:
            assert f"def {name}(" in everything, name


def test_tests_that_are_said_to_hold_something_exist(page: Path) -> None:
    for file, name in TEST_ID.findall(page.read_text(encoding="utf-8")):
        assert without_the_test(file, name) is None


def without_the_test(file: str, name: str) -> str | None:
    """What is missing, if it is: the file, or in it a test of this name."""
    path = ROOT / file
    if not path.is_file():
        return f"{file} does not exist"
    defined = re.search(rf"^ *(?:async )?def {name}\(", path.read_text("utf-8"), re.MULTILINE)
    return None if defined and name.startswith("test_") else f"{file} has no test {name}"


def test_a_test_that_does_not_exist_is_found() -> None:
    here = "tests/unit/test_docs.py"
    assert without_the_test(here, "test_links_lead_somewhere") is None
    assert without_the_test(here, "test_links_lead") == f"{here} has no test test_links_lead"
    assert without_the_test(here, "without_the_test") is not None
    assert without_the_test("tests/unit/test_nothing.py", "test_x") is not None


def test_every_rule_of_the_checklists_names_a_test_or_says_that_it_has_none() -> None:
    page = (generate.DOCS / "topics" / "security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    for row in rows:
        held = row.split(" | ")[-1]
        assert TEST_FILE.search(held) or "the test that" in held, row
    for section in range(1, 13):
        assert f"| 3.{section} " in page


def test_named_modules_exist(page: Path) -> None:
    for name in MODULE.findall(page.read_text(encoding="utf-8")):
        if "/" in name:
            assert (ROOT / name).exists(), name
            continue
        words = name.split(".")
        # The last word may be a name in the module.
        candidates = [words, words[:-1]] if len(words) > 1 and words[-1][:1].isupper() else [words]
        paths = [ROOT.joinpath(*each) for each in candidates]
        assert any(path.with_suffix(".py").exists() or path.is_dir() for path in paths), name


def test_python_examples_parse(page: Path) -> None:
    for block in FENCED.findall(page.read_text(encoding="utf-8")):
        first, _, rest = block.partition("\n")
        if first.startswith("```python"):
            ast.parse(rest.rpartition("```")[0])


def test_shell_blocks_that_are_not_run_are_only_make_and_activation(page: Path) -> None:
    """Everything else is a ``console`` block, which the integration tests execute."""
    for block in FENCED.findall(page.read_text(encoding="utf-8")):
        lines = block.splitlines()
        if lines[0].strip("`").strip() in ("sh", "bash", "shell"):
            for line in lines[1:-1]:
                assert re.match(r"make |source \.venv/bin/activate$", line), line


def test_pages_name_nothing_outside_of_the_repository(page: Path) -> None:
    """Neither a folder above the checkout nor an absolute path of one machine."""
    text = page.read_text(encoding="utf-8")
    above = "../" * (len(page.relative_to(generate.DOCS.parent).parts))
    for wrong in (above, "/home/", "/root/"):
        assert wrong not in text


def test_every_line_that_is_logged_has_a_meaning_and_the_other_way_round() -> None:
    assert log_events.found().keys() == log_events.MEANINGS.keys()
    raised = log_events.found()["agent_raised"]
    assert (raised.program, raised.levels) == ("worker", {"error"})
    assert list(raised.fields) == ["run_id", "agent", "exception"]


def test_every_page_is_linked_from_the_index() -> None:
    index = generate.DOCS / "README.md"
    linked = set()
    waiting = [index]
    while waiting:
        page = waiting.pop()
        if page in linked or page.suffix != ".md":
            continue
        linked.add(page)
        waiting += [
            (page.parent / target.partition("#")[0]).resolve()
            for target in LINK.findall(CODE.sub("", prose(page)))
            if not re.match(r"[a-z]+:|#", target)
        ]
    pages = {page for page in PAGES if page.is_relative_to(generate.DOCS)}
    assert pages <= linked, sorted(map(str, pages - linked))
