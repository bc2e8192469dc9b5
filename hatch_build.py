"""Builds the part of Runcast that is written in C when it is installed, where that can be done.

Without a C compiler or Python's headers Runcast is installed all the same: see gateway/fastpath.py.
"""

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("gateway", "_fastpath.c")


class BuildHook(BuildHookInterface[Any]):
    """Called by hatchling for a wheel, and for an installation that is edited in place."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile beside the source; a wheel has it, and is for this Python and platform then."""
        built = SOURCE.with_name(f"_fastpath{sysconfig.get_config_var('EXT_SUFFIX')}")
        try:
            compiled(Path(self.root, SOURCE), Path(self.root, built))
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", None) or error
            self.app.display_warning(f"Runcast's fast path is left out, it cannot be built: {why}")
            return
        if version != "editable":
            build_data |= {"pure_python": False, "infer_tag": True}
            build_data["force_include"][str(built)] = str(built)


def compiled(source: Path, target: Path) -> None:
    """Compile an extension module.

    ``OSError`` where there is no compiler, ``CalledProcessError`` where it fails.
    """
    if sys.platform == "win32":
        raise OSError("it is for POSIX systems")
    target.unlink(missing_ok=True)  # of another source, perhaps
    # As Python's own modules are: LDSHARED begins with the compiler.
    words = (sysconfig.get_config_var(name) or "" for name in ("LDSHARED", "CFLAGS", "CCSHARED"))
    options = [word for each in words for word in shlex.split(each)]
    made = target.with_suffix(".new")
    command = [*options, "-O2", f"-I{sysconfig.get_path('include')}", str(source), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - Python's own
    made.replace(target)
