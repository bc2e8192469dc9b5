"""The examples of README, tutorial and how-to pages run as they stand, so they cannot rot.

What is executed, page by page, in a directory of its own:

- a ``python`` block whose first line is ``# name.py`` is written to that file;
- a ``console`` block is a terminal: lines with ``$`` are run by bash (``>`` continues one), the
  lines under a command are its output, ``…`` is anything, and variables live on to the next block;
- ``console background NAME`` leaves its last command running until the end of the page, and a later
  ``text NAME`` block is what that terminal shows meanwhile.

Ids, times and ports differ from run to run and are normalised on both sides.

``python -m tests.integration.test_docs_examples PAGE`` prints what a page's commands really answer.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from docs import generate
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/tutorial.md",
    "docs/how-to/test-an-agent.md",
    "docs/how-to/ask-the-user.md",
    "docs/how-to/several-gateways.md",
    "docs/how-to/follow-a-channel.md",
    "docs/how-to/rotate-keys.md",
    "docs/how-to/measure-your-installation.md",
    "docs/how-to/administer.md",
    "docs/how-to/alerts.md",
    "docs/how-to/use-any-client.md",
    "docs/how-to/publish-from-any-language.md",
    "docs/how-to/receive-webhooks.md",
    "docs/topics/scaling.md",
)
ELSEWHERE = {
    "docs/how-to/bring-your-framework.md": "tests/integrations/test_docs_page.py",
    "docs/how-to/trace-a-run.md": "tests/integrations/test_docs_page.py",
    "docs/how-to/run-with-docker.md": "tests/compose/test_docs_page.py",
    "docs/how-to/use-ai-sdk.md": "tests/conformance/test_docs_examples.py",
}
"""Pages with ``console`` blocks that another test runs, because of what has to be installed."""

NOT_RUN = {
    ("compose/README.md", "compose/fleet.sh"):
        "runs until Ctrl-C; tests/integration/test_redis_rights.py runs it",
    ("docs/how-to/measure-your-installation.md", "runcast bench"):
        "measures for minutes on an idle machine; tests/integration/test_bench_command.py runs it",
    ("docs/how-to/redis-topologies.md", "runcast check"):
        "asks the reader's Redis; tests/integration/test_topologies.py runs it on each topology",
    **{
        ("docs/how-to/run-on-kubernetes.md", f"kubectl {command}"):
            "asks the reader's cluster; tests/unit/test_kubernetes.py holds the manifests"
        for command in (
            "create namespace runcast",
            "config set-context --current --namespace=runcast",
            "create secret generic runcast-gateway --from-env-file=gateway.env",
            "create secret generic runcast-worker --from-env-file=worker.env",
            "apply --dry-run=server -k my-installation",
            "apply -k my-installation",
            "rollout status deployment/runcast-gateway",
            (
                "--namespace monitoring create configmap runcast-dashboard"
                " --from-file=compose/grafana/dashboards/runcast.json"
            ),
            "--namespace monitoring label configmap runcast-dashboard grafana_dashboard=1",
        )
    },
    ("docs/how-to/serve-tls.md", "runcast gateway --host 0.0.0.0 --port 8443"):
        "needs the reader's certificate; tests/integration/tls/test_tls.py serves with its own",
    ("docs/how-to/serve-tls.md", "runcast check"):
        "needs the reader's certificate; tests/integration/tls/test_tls.py checks its own",
}  # fmt: skip
"""(page, command) of a terminal that is shown and not run → why, and what holds it instead."""

COMMAND_SECONDS = 120.0
SHOWN_SECONDS = 120.0
END_SECONDS = 60.0
SEPARATOR = "\x1e"

CURL = """
import sys, urllib.request
words, headers, body = iter(sys.argv[1:]), {}, None
for word in words:
    if word == "-H":
        name, _, value = next(words).partition(": ")
        headers[name] = value
    elif word == "-d":
        body = next(words).encode()
    elif word not in ("-s", "-sN"):
        url = word
request = urllib.request.Request(url, body, headers)
for line in urllib.request.urlopen(request):
    sys.stdout.write(line.decode())
    sys.stdout.flush()
"""
"""For machines without curl: as much of it as the pages use."""

VARYING = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b01[0-9A-HJKMNP-TV-Z]{24}\b"), "ULID"),
    (re.compile(r"\b1[0-9]{12}-[0-9]+\b"), "CURSOR"),
    (re.compile(r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z"), "TIME"),
    (re.compile(r"\beyJ[\w.-]+"), "TOKEN"),
    (re.compile(r"\b[0-9]+ ms\b"), "N ms"),
    (re.compile(r"\bpid [0-9]+"), "pid N"),
    (re.compile(r"\bin [0-9.]+s\b"), "in N s"),
    (re.compile(r" +\[100%\]"), " [100%]"),
    (re.compile(r"\bversion [0-9.]+"), "version N"),
    (re.compile(r'"(\w+_ms|uptime_seconds|p50|p95|p99)":[0-9.]+'), r'"\1":N'),
    (re.compile(r'"version":"[^"]*"'), '"version":"N"'),
)

pytestmark = pytest.mark.timeout(600)


@dataclass
class Block:
    """A fenced block: its info string, its lines, and the line of the page where it begins."""

    info: list[str]
    lines: list[str]
    at: int


@dataclass
class Command:
    text: str
    expected: list[str] = field(default_factory=list)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    current: Block | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if current is None:
                current = Block(line.strip("`").split(), [], number)
            else:
                yield current
                current = None
        elif current is not None:
            current.lines.append(line)


def commands(block: Block) -> list[Command]:
    found: list[Command] = []
    for line in block.lines:
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        elif line.startswith("> ") and not found[-1].expected:
            found[-1].text += f"\n{line[2:]}"
        else:
            found[-1].expected.append(line)
    return found


def normal(text: str) -> list[str]:
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    lines = [line.rstrip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def as_pattern(expected: list[str]) -> re.Pattern[str]:
    """A line ``…`` is any number of lines, ``…`` within one any text."""
    parts = []
    for line in normal("\n".join(expected)):
        if line.strip() == "…":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(re.escape(line).replace("…", "[^\n]*") + r"\n")
    return re.compile("".join(parts))


def shown(expected: list[str], output: str, *, anywhere: bool = False) -> bool:
    text = "".join(f"{line}\n" for line in normal(output))
    pattern = as_pattern(expected)
    return bool(pattern.search(text) if anywhere else pattern.fullmatch(text))


class Session:
    """One page's reader: a directory, an environment, and the terminals left open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.work = folder / "work"
        self.work.mkdir()
        self.variables = folder / "variables"
        self.variables.write_text("", encoding="utf-8")
        # The ports that the pages name, and the ones that are free here.
        named = ("8080", "8081", "8082", "8083", "8091", "6400")
        self.ports = {page: str(free_port()) for page in named}
        self.open: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._shims(folder / "bin")
        self.env = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith("RUNCAST_")
            },
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "200",
            # The defaults of the pages, but for the ports.
            "RUNCAST_PORT": self.ports["8080"],
            "RUNCAST_URL": f"ws://127.0.0.1:{self.ports['8080']}/ws",
        }

    def _shims(self, folder: Path) -> None:
        """What an activated environment has on PATH, for the Python that runs the tests."""
        folder.mkdir()
        for name, arguments in (
            ("runcast", "-m gateway"),
            ("python", ""),
            ("pytest", "-m pytest -p no:asyncio -p no:cacheprovider"),
        ):
            shim = folder / name
            shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', "utf-8")
            shim.chmod(0o755)
        if shutil.which("curl") is None:
            curl = folder / "curl"
            curl.write_text(f"#!{sys.executable}\n{CURL}", encoding="utf-8")
            curl.chmod(0o755)

    def here(self, text: str) -> str:
        for page, port in self.ports.items():
            text = re.sub(rf"\b{page}\b", port, text)
        return text

    def back(self, text: str) -> str:
        for page, port in self.ports.items():
            text = re.sub(rf"\b{port}\b", page, text)
        return text

    def run(self, wanted: list[Command]) -> list[str]:
        """The output of each command, errors included, as one terminal shows them."""
        if not wanted:
            return []
        script = [f". {self.variables}"]
        for command in wanted:
            script += [
                self.here(command.text),
                f"__status=$?; printf '{SEPARATOR}'; (exit $__status)",
            ]
        script.append(f"export -p > {self.variables}")
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=self.work,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS * len(wanted),
            check=False,
        )
        return self.back(done.stdout.decode()).split(SEPARATOR)[: len(wanted)]

    def start(self, name: str, command: Command) -> None:
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                ["bash", "-c", f". {self.variables}\nexec {self.here(command.text)}"],
                cwd=self.work,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.open[name] = (popen, log)

    def wait_shown(self, name: str, expected: list[str]) -> tuple[bool, str]:
        """Whether the terminal shows it in time, and what it shows."""
        popen, log = self.open[name]
        deadline = time.monotonic() + SHOWN_SECONDS
        while True:
            ended = popen.poll() is not None
            output = self.back(log.read_text(encoding="utf-8", errors="replace"))
            if shown(expected, output, anywhere=True):
                return True, output
            if ended or time.monotonic() > deadline:
                return False, output
            time.sleep(0.05)

    def end(self) -> None:
        for popen, _ in reversed(self.open.values()):
            popen.send_signal(signal.SIGINT)
            try:
                popen.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


@dataclass
class Reader:
    """Does what a page says. ``answers``: what came of each block, and whether the page says so."""

    session: Session
    answers: list[tuple[str, bool]] = field(default_factory=list)

    def follow(self, page: str) -> None:
        try:
            for block in blocks(ROOT / page):
                kind = block.info[0] if block.info else ""
                if kind == "python":
                    self._write(block)
                elif kind == "console" and "background" in block.info:
                    self._start(block)
                elif kind == "console":
                    self._run(block, commands(block))
                elif kind == "text" and len(block.info) > 1:
                    self._look(block, block.info[1], block.lines)
        finally:
            self.session.end()

    def _write(self, block: Block) -> None:
        name = block.lines[0].removeprefix("# ").strip()
        if re.fullmatch(r"\w+\.py", name):
            text = self.session.here("\n".join(block.lines) + "\n")
            (self.session.work / name).write_text(text, encoding="utf-8")

    def _run(self, block: Block, wanted: list[Command]) -> None:
        for command, got in zip(wanted, self.session.run(wanted), strict=True):
            as_shown = shown(command.expected, got)
            self._tell(block, command.text, command.expected, got, as_shown=as_shown)

    def _start(self, block: Block) -> None:
        *before, last = commands(block)
        self._run(block, before)
        self.session.start(block.info[-1], last)
        self._look(block, block.info[-1], last.expected)

    def _look(self, block: Block, name: str, expected: list[str]) -> None:
        as_shown, got = self.session.wait_shown(name, expected)
        self._tell(block, f"terminal {name}", expected, got, as_shown=as_shown)

    def _tell(
        self, block: Block, what: str, expected: list[str], got: str, *, as_shown: bool
    ) -> None:
        wanted = "\n".join(expected)
        text = f"line {block.at}: {what}\nthe page shows:\n{wanted}\nit was:\n{got}"
        self.answers.append((text, as_shown))


def shell_blocks() -> Iterator[tuple[str, Block]]:
    """(page, block) of each that shows a command typed into a terminal."""
    for path in generate.pages():
        for block in blocks(path):
            if any(line.startswith("$ ") for line in block.lines):
                yield str(path.relative_to(ROOT)), block


def test_every_command_of_the_pages_is_run_or_has_a_reason() -> None:
    run = {*PAGES, *ELSEWHERE}
    shown = set()
    for page, block in shell_blocks():
        if block.info[:1] == ["console"]:
            assert page in run, f"{page}, line {block.at}: no test runs this page"
        else:
            shown |= {(page, each.text) for each in commands(block)}
    assert shown == NOT_RUN.keys()


def test_what_is_said_to_run_a_page_instead_exists() -> None:
    for page, file in ELSEWHERE.items():
        assert Path(page).name in (ROOT / file).read_text(encoding="utf-8")
    for reason in NOT_RUN.values():
        (file,) = re.findall(r"tests/[\w/]+\.py", reason)
        assert (ROOT / file).is_file(), reason


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_shows(page: str, tmp_path: Path) -> None:
    reader = Reader(Session(tmp_path))
    reader.follow(page)
    assert reader.answers
    wrong = [f"{page}, {text}" for text, as_shown in reader.answers if not as_shown]
    assert not wrong, "\n\n".join(wrong)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as temporary:
            asked = Reader(Session(Path(temporary)))
            asked.follow(each)
            sys.stdout.write("\n".join(text for text, _ in asked.answers))
