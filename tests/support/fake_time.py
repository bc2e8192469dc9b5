"""A clock that a test sets while a program runs (libfaketime)."""

from functools import cache
from pathlib import Path
from typing import Final

FOLDERS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib")


@cache
def library() -> Path | None:
    """libfaketime, for programs with threads; None where it is not installed."""
    for folder in FOLDERS:
        for found in Path(folder).glob("**/faketime/libfaketimeMT.so.1"):
            return found
    return None


class Clock:
    """``settings`` go into the environment of the process whose wall clock this is.

    Its monotonic clock is left alone, as a clock step leaves it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._file = folder / f"{name}.clock"
        self.set(0)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        """So far from the true time, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}s\n")
        new.replace(self._file)  # never half written
