"""Where the part in C is there: everywhere but on a machine that cannot build it."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from gateway.fastpath import BUILT

BUILDABLE = (
    shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) is not None
    and Path(sysconfig.get_path("include"), "Python.h").exists()
)
BUILT_HERE = pytest.mark.skipif(
    not BUILT, reason="the fast path was not built here: no C compiler, or not Python's headers"
)
