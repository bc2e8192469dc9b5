"""``make bench``: measure, print what is reached, store it, and draw it.

``make bench ARGS="delivery idle"`` measures some scenarios, ``ARGS=--quick`` all of them at sizes
that only show that they work. With ``--publish`` a full run becomes the one that the documentation
shows. Exit status 1 when a scenario failed; what is not reached is told, and no failure.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks import machine, micro_suite, targets
from tests.benchmarks.system import (
    connect,
    delivery,
    fanout,
    growth,
    idle,
    over_http,
    publisher,
    resume,
    scaling,
    script,
    text,
)
from tests.benchmarks.system.measuring import Scenario

RESULTS: Final = Path(__file__).parent / "results"
PUBLISHED: Final = RESULTS / "published.json"
SCENARIOS: Final[dict[str, Scenario]] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        delivery, script, fanout, idle, connect, resume, publisher, over_http, text, scaling,
        growth,
    )
}  # fmt: skip


def measure(names: list[str], *, quick: bool, console: Console) -> dict[str, Any]:
    """What the scenarios found, with what failed."""
    found: dict[str, Any] = {"scenarios": {}, "failed": {}}
    for name in names:
        began = time.monotonic()
        console.print(f"[bold]{name}[/]: {SCENARIOS[name].what} …")
        try:
            found["scenarios"][name] = SCENARIOS[name].run(quick=quick)
        except (RuntimeError, OSError, TimeoutError) as error:
            found["failed"][name] = str(error)
            console.print(f"  failed: {error}", style="red", markup=False)
        console.print(f"  {time.monotonic() - began:.0f} s")
    return found


def show(found: dict[str, Any], console: Console) -> None:
    """The table of what is to be reached."""
    table = Table("what", "reach", "measured", "")
    for what, reach, measured, reached in targets.rows(found["scenarios"]):
        style = "green" if reached == "reached" else "yellow"
        table.add_row(what, reach, measured, f"[{style}]{reached}[/]")
    console.print(table)
    for scenario, systems in found["scenarios"].items():
        for system, figures in systems.items():
            if "missing" in figures:
                console.print(f"{scenario}: without {system}: {figures['missing']}", markup=False)


def store(found: dict[str, Any]) -> Path:
    """Write a result; its file's name tells when and what."""
    stamp = "".join(each for each in found["date"][:19] if each.isalnum())
    path = RESULTS / f"{stamp}-{found['commit'] or 'no-commit'}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    known = [*SCENARIOS, "micro"]
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help=", ".join(known))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--publish", action="store_true", help="for docs/topics/performance.md")
    asked = parser.parse_args()
    if unknown := set(asked.scenario) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. There are: {', '.join(known)}.")
    if asked.publish and (asked.quick or asked.scenario):
        parser.error("--publish needs all scenarios at full size")
    console = Console(width=None if sys.stdout.isatty() else 160)
    names = [name for name in asked.scenario or known if name != "micro"]
    facts = machine.facts()
    found = {**facts, "quick": asked.quick, **measure(names, quick=asked.quick, console=console)}
    if not asked.scenario or "micro" in asked.scenario:
        try:
            found["micro"] = micro_suite.run(quick=asked.quick, console=console)
        except RuntimeError as error:  # told like a scenario's: the others' figures are kept
            found["failed"]["micro"] = str(error)
    show(found, console)
    path = store(found)
    console.print(f"Stored in {path.relative_to(machine.ROOT)}.")
    if asked.publish and not found["failed"]:
        from tests.benchmarks import plots  # noqa: PLC0415 - matplotlib is slow to import

        PUBLISHED.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        plots.draw(found, machine.ROOT / "docs" / "topics" / "performance")
        console.print("Published; now: python docs/generate.py")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
