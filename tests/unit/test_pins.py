"""What is installed is what was tested: every package is pinned, within the bounds that we give.

Needs no network. Whether a pinned version has a known weakness is asked by ``make audit``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OURS = "runcast"


def pins() -> dict[str, Version]:
    """Package → its one version; anything else in the file is an error."""
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        exact = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9A-Za-z.]+)", line)
        assert exact is not None, f"{line!r} is no pin"
        name = canonicalize_name(exact[1])
        assert name not in found, f"{name} is pinned twice"
        found[name] = Version(exact[2])
    return found


PINS = pins()


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, of the product and of every extra."""
    extras = PROJECT["optional-dependencies"].values()
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    return [each for each in map(Requirement, texts) if each.name != OURS]


def needed(requirement: Requirement, seen: set[str]) -> Iterator[str]:
    """Every package that is installed for it on this machine, itself included."""
    extras = requirement.extras or {""}
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return
    name = canonicalize_name(requirement.name)
    key = f"{name}[{','.join(sorted(extras))}]"
    if key in seen:
        return
    seen.add(key)
    yield name
    for text in requires(name) or ():
        further = Requirement(text)
        marker = further.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            further.marker = None
            yield from needed(further, seen)


@pytest.mark.parametrize("requirement", declared(), ids=lambda each: each.name)
def test_what_is_asked_for_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    pinned = PINS.get(canonicalize_name(requirement.name))
    assert pinned is not None, f"{requirement.name} is not in constraints.txt"
    assert requirement.specifier.contains(pinned), f"{requirement} and =={pinned}"
    assert any(each.operator == ">=" for each in requirement.specifier), "no lower bound"


def test_everything_that_is_installed_for_the_product_is_pinned() -> None:
    """What those packages need in their turn, too, and in the version that is there."""
    seen: set[str] = set()
    names = {name for text in PROJECT["dependencies"] for name in needed(Requirement(text), seen)}
    assert {"aiohttp", "yarl", "cffi", "pydantic-core"} <= names
    assert {name for name in names if name not in PINS} == set()
    there = {name: Version(version(name)) for name in names}
    assert there == {name: PINS[name] for name in names}


def test_nothing_is_installed_here_in_another_version_than_pinned() -> None:
    other = {}
    for name, pinned in PINS.items():
        try:
            found = Version(version(name))
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        if found != pinned:
            other[name] = (found, pinned)
    assert other == {}
