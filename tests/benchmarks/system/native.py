"""The C programs of the benchmarks, compiled by the system's compiler when their source changed."""

import shutil
import subprocess
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parents[1] / "native"
CACHE: Final = Path(sys.prefix) / "bench"
"""Within the virtual environment: `make clean` takes it away."""


class NoCompiler(RuntimeError):
    """There is nothing to build the floor with."""

    def __init__(self) -> None:
        super().__init__("The floor is a C program and there is no `cc` on PATH: install gcc.")


@cache
def built(name: str) -> Path:
    """The executable of ``native/NAME.c``.

    :raises NoCompiler: there is no C compiler.
    """
    source = SOURCES / f"{name}.c"
    digest = sha256(source.read_bytes()).hexdigest()[:12]
    program = CACHE / f"{name}-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler
    CACHE.mkdir(parents=True, exist_ok=True)
    being_made = program.with_suffix(".tmp")
    subprocess.run([compiler, "-O2", "-std=gnu11", "-Wall", "-o", being_made, source], check=True)
    being_made.rename(program)
    return program
