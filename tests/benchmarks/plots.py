"""The pictures of docs/topics/performance.md: legible on a light and on a dark page."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.benchmarks.targets import (
    BARE,
    FLOOR,
    JETSTREAM,
    JOINING,
    OURS,
    PLAIN,
    SOCKETIO,
)

INK: Final = "#7d8590"
"""Between black and white: has contrast on both."""
COLOURS: Final = {OURS: "#2f81f7", FLOOR: "#8b949e", PLAIN: "#d29922"}
REDIS_COLOUR: Final = "#e5534b"
STYLE: Final = {
    "svg.fonttype": "none",  # text stays text: small files, the reader's own font
    "svg.hashsalt": "runcast",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "grid.color": INK,
    "grid.alpha": 0.25,
}
Scenarios = Mapping[str, Mapping[str, Any]]


def above(axes: Axes) -> None:
    """The legend where no curve comes."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handlelength=1.5, columnspacing=1)


def latency(axes: Axes, scenarios: Scenarios) -> None:
    """From publish to receive, every share of events on a scale of nines."""
    for system in (FLOOR, PLAIN, OURS):
        for rate, line in (("2000", "--"), ("5000", "-")):
            curve = scenarios["delivery"][system][rate]["curve_ms"]
            beyond = [1 / (1 - share) for share, _ in curve]
            axes.plot(
                beyond, [ms for _, ms in curve], line, color=COLOURS[system],
                label=f"{system}, {int(rate):,}/s",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([2, 10, 100, 1000], ["50 %", "90 %", "99 %", "99.9 %"])
    axes.minorticks_off()
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.set_xlabel("share of events that are no later, at so many events a second")
    axes.set_ylabel("ms from publish to receive")
    axes.grid(visible=True)
    above(axes)


def connections(axes: Axes, scenarios: Scenarios) -> None:
    """CPU per delivery against how many are connected."""
    for system in (FLOOR, OURS):
        found = scenarios["growth"][system]["connections"]
        sizes = sorted(found, key=int)
        costs = [found[size]["net_us"] for size in sizes]
        axes.plot([int(size) for size in sizes], costs, "o-", color=COLOURS[system], label=system)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections of the process")
    axes.set_ylabel("µs of CPU per delivery")
    axes.grid(visible=True)
    above(axes)


def peers(axes: Axes, scenarios: Scenarios) -> None:
    """CPU per event of everybody that could be measured: the process that delivers, and Redis."""
    shown = [
        name
        for name in (JOINING, FLOOR, BARE, OURS, PLAIN, SOCKETIO, JETSTREAM)
        if "bulk" in scenarios["delivery"].get(name, {})
    ][::-1]
    bulks = [scenarios["delivery"][name]["bulk"] for name in shown]
    own = [bulk["delivering_us"] for bulk in bulks]
    redis = [
        0.0 if name == JETSTREAM else bulk["redis_us"]
        for name, bulk in zip(shown, bulks, strict=True)
    ]
    colours = [COLOURS.get(name, INK) if name == OURS else INK for name in shown]
    axes.barh(shown, own, color=colours, label="the process that delivers")
    axes.barh(shown, redis, left=own, color=REDIS_COLOUR, alpha=0.6, label="Redis")
    for place, (mine, theirs) in enumerate(zip(own, redis, strict=True)):
        axes.text(mine + theirs + 0.5, place, f"{mine:.1f} + {theirs:.1f}", va="center")
    axes.set_xlim(right=1.2 * max(map(sum, zip(own, redis, strict=True))))
    axes.set_xlabel("µs of CPU per event, published and delivered")
    above(axes)


PICTURES: Final[Mapping[str, Callable[[Axes, Scenarios], None]]] = {
    "latency": latency,
    "connections": connections,
    "peers": peers,
}


def draw(found: Mapping[str, Any], folder: Path) -> None:
    """Write one SVG per picture."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):  # type: ignore[arg-type]  # names of settings are literals there
        for name, picture in PICTURES.items():
            figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
            picture(axes, found["scenarios"])
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
