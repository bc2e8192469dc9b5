"""Which Runcast this is."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def product_version() -> str:
    """The installed version; that of a checkout is ``0+checkout``."""
    try:
        return version("runcast")
    except PackageNotFoundError:
        return "0+checkout"
