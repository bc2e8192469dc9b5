"""The part in C, looked at by its compiler: what Python's own rules cannot see in it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from gateway.fastpath import BUILT
from tests.support.fastpath import BUILDABLE

pytestmark = [
    pytest.mark.skipif(not BUILDABLE, reason="no C compiler here, or not Python's headers"),
    pytest.mark.timeout(300),  # every access is checked: it takes its time
]

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "gateway" / "_fastpath.c"
SANITIZERS: Final = ("asan", "ubsan")
CHECKED: Final = ("tests/unit/test_fastpath.py", "tests/unit/test_hub.py")


def compiler() -> list[str]:
    return shlex.split(sysconfig.get_config_var("CC") or "cc")


def compile_with(*options: str) -> str:
    """What it says to it."""
    headers = ["-isystem", sysconfig.get_path("include")]
    command = [*compiler(), *headers, *options, str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_it_is_there_wherever_it_can_be_built() -> None:
    """Everything else of it is left out where it is not."""
    assert BUILT, "install again: pip install -e ."


def test_the_compiler_has_nothing_to_say() -> None:
    assert compile_with("-fsyntax-only", "-Wall", "-Wextra", "-Wshadow") == ""


def library(name: str) -> str | None:
    """Of a sanitizer, if the compiler has it."""
    command = [*compiler(), f"-print-file-name=lib{name}.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found if Path(found).is_absolute() else None


def test_it_touches_no_byte_that_is_not_its_own(tmp_path: Path) -> None:
    """Its tests and the hub's again, with every access to memory checked."""
    libraries = [library(name) for name in SANITIZERS]
    if None in libraries:
        pytest.skip(f"{compiler()[0]} has no {' and no '.join(SANITIZERS)} here")
    for folder in ("broker", "gateway", "tests/support", "tests/unit"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    target = tmp_path / "gateway" / f"_fastpath{sysconfig.get_config_var('EXT_SUFFIX')}"
    compile_with(
        "-shared", "-fPIC", "-O1", "-g", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined", "-o", str(target),
    )  # fmt: skip
    env = {
        **os.environ,
        "LD_PRELOAD": " ".join(map(str, libraries)),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter leaves much behind when it ends
        "PYTHONMALLOC": "malloc",  # each object apart, or a step beside one would land in another
    }
    script = "import gateway._fastpath as it; print(it.__file__)"
    for command, expected in (
        (["-c", script], str(target)),
        (["-m", "pytest", "-q", "-p", "no:cacheprovider", *CHECKED], " passed"),
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout
