"""The pictures of docs/topics/performance.md and scaling.md: legible on a light and on a dark page.

``python -m tests.benchmarks.plots`` draws them from the published results.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from docs import capacity, generate, generate_scaling
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


def model(axes: Axes, scenarios: Scenarios) -> None:
    """The capacity model as lines, what was measured as points."""
    shown = (("gateway, a delivery", COLOURS[OURS]), ("Redis, an event", REDIS_COLOUR))
    for what, colour in shown:
        rows = [
            (int(each.size.split()[0].replace(",", "")), each)
            for each in capacity.compared(scenarios)
            if each.what == what and each.size.endswith("connections")
        ]
        sizes = [size for size, _ in rows]
        axes.plot(sizes, [each.modelled for _, each in rows], color=colour, label=f"{what}: model")
        axes.plot(
            sizes, [each.measured for _, each in rows], "o", color=colour, label="measured"
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections of one gateway process")
    axes.set_ylabel("µs of CPU")
    axes.grid(visible=True)
    above(axes)


def growing(axes: Axes, scenarios: Scenarios) -> None:
    """What the model asks for, to ten million users."""
    users = [round(10 ** (power / 10)) for power in range(30, 71)]

    def curve(partitions: int, part: Callable[[capacity.Plan], int]) -> list[float]:
        points = []
        for each in users:
            try:
                points.append(float(part(generate_scaling.growing(scenarios, each, partitions))))
            except capacity.TooFewPartitions:
                points.append(float("nan"))
        return points

    few, *_, many = generate_scaling.PARTITIONS
    axes.plot(users, curve(many, lambda found: found.gateways), color=COLOURS[OURS],
              label="gateway processes")  # fmt: skip
    for partitions, line in ((many, "-"), (few, "--")):
        axes.plot(users, curve(partitions, lambda found: found.shards), line, color=REDIS_COLOUR,
                  label=f"Redis shards, {partitions:,} partitions")  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("connected users")
    axes.set_ylabel("how many")
    axes.grid(visible=True)
    above(axes)


PICTURES: Final[Mapping[str, Callable[[Axes, Scenarios], None]]] = {
    "latency": latency,
    "connections": connections,
    "peers": peers,
    "model": model,
    "growing": growing,
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


if __name__ == "__main__":
    draw(
        json.loads(generate.BENCHMARK.read_text("utf-8")), generate.DOCS / "topics" / "performance"
    )
