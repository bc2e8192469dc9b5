"""All gateways behind the load balancer replaced under load, as Prometheus sees it, and a picture.

``python -m tests.benchmarks.rolling_restart --draw restart.svg``: three gateways behind
compose/haproxy, so many clients with an event a second each, Prometheus with
compose/prometheus/prometheus.yml, each gateway replaced by a new one; then the history checker
judges, and Prometheus is asked for what happened. Needs haproxy and prometheus on PATH.
"""

import argparse
import asyncio
import json
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tests.chaos.test_behind_haproxy import replace_all, served
from tests.support.balanced import Balanced, balanced, most_within
from tests.support.chaos_report import Row, table
from tests.support.ports import free_port
from tests.support.servers import spawn, wait_until

KEY: Final = "a metrics key of the benchmarks"
CONFIG: Final = Path(__file__).parents[2] / "compose" / "prometheus" / "prometheus.yml"
BEFORE_SECONDS: Final = 15.0
"""Of load before the first gateway goes, and after the last has gone."""

COLOURS: Final = ("#8b949e", "#a8b0b9", "#c4cad1", "#2f81f7", "#6ba6f9", "#a5c8fb")
"""Three gateways that go, and three that come."""

QUERIES: Final = {
    "connections": "sum by (instance) (runcast_connections)",
    "connects": "sum(rate(runcast_connects_total[3s]))",
    "delivered": "sum(rate(runcast_events_delivered_total[5s]))",
    "p99": "histogram_quantile(0.99, sum by (le) (rate(runcast_delivery_seconds_bucket[5s])))",
    "p50": "histogram_quantile(0.5, sum by (le) (rate(runcast_delivery_seconds_bucket[5s])))",
}


@dataclass
class Prometheus:
    """Scrapes every second what compose/ has it scrape; gateways by a file instead of by name."""

    folder: Path
    port: int = field(default_factory=free_port)

    def configure(self, figures: int) -> Path:
        config = yaml.safe_load(CONFIG.read_text("utf-8"))
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
        del config["rule_files"]
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        gateways, haproxy = jobs["runcast-gateway"], jobs["haproxy"]
        for job in (gateways, haproxy):
            del job["dns_sd_configs"]
        key = self.folder / "key"
        key.write_text(KEY)
        gateways["authorization"]["credentials_file"] = str(key)
        gateways["file_sd_configs"] = [{"files": [str(self.targets)], "refresh_interval": "1s"}]
        haproxy["static_configs"] = [{"targets": [f"127.0.0.1:{figures}"]}]
        config["scrape_configs"] = [gateways, haproxy]
        path = self.folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        return path

    @property
    def targets(self) -> Path:
        return self.folder / "gateways.json"

    def tell(self, places: Sequence[str]) -> None:
        """Which gateways there are."""
        new = self.targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": list(places)}]))
        new.rename(self.targets)

    def ask(self, query: str, began: float, ended: float) -> dict[str, list[tuple[float, float]]]:
        """Instance → (seconds since ``began``, value), of these moments of the wall clock."""
        asked = {"query": query, "start": began, "end": ended, "step": 1}
        place = f"http://127.0.0.1:{self.port}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(place, timeout=30) as response:
            found = json.load(response)["data"]["result"]
        return {
            each["metric"].get("instance", ""): [
                (at - began, float(value)) for at, value in each["values"] if value != "NaN"
            ]
            for each in found
        }


@contextmanager
def prometheus(folder: Path, figures: int) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus")
    assert binary is not None, "there is no prometheus (apt install prometheus)"
    running = Prometheus(folder)
    running.tell([])
    address = f"127.0.0.1:{running.port}"
    command = [
        binary, f"--config.file={running.configure(figures)}", f"--web.listen-address={address}",
        f"--storage.tsdb.path={folder / 'series'}", "--log.level=warn",
    ]  # fmt: skip
    process = spawn(command, folder / "prometheus.log")
    try:
        wait_until(lambda: process.runs() and process.serves(running.port), what="it serves")
        yield running
    finally:
        process.end()


async def restart(clients: int, drain_seconds: int) -> tuple[Row, dict[str, Any]]:
    """The row of the report, and the series of :data:`QUERIES`."""
    rows: list[Row] = []
    async with balanced(
        rows.append, RUNCAST_DRAIN_SECONDS=str(drain_seconds), RUNCAST_METRICS_KEY=KEY
    ) as fleet:
        folder = fleet.scene.folder / "prometheus"
        folder.mkdir()
        with prometheus(folder, fleet.balancer.figures) as watching:
            telling = asyncio.create_task(keep_telling(watching, fleet))
            async with served(fleet, clients, per_second=clients) as everybody:
                began, since = time.time(), time.monotonic()
                await asyncio.sleep(BEFORE_SECONDS)  # what the picture shows before it
                await replace_all(fleet)
                rate = fleet.scene.rate(since, time.monotonic())
                await asyncio.sleep(BEFORE_SECONDS)  # and after it
                ended = time.time()
            series = {name: watching.ask(query, began, ended) for name, query in QUERIES.items()}
            telling.cancel()
        await fleet.scene.settle()
        back = [after.opened for _, after in everybody.returns()]
        most = most_within(back, 0.1) / clients
        fleet.scene.judge(
            fault=f"3 gateways replaced; {clients} clients, {rate:.0f} events/s; "
            f"most that came back in 100 ms: {most:.2%}",
            recovery_seconds=everybody.longest_away(),
        )
    return rows[0], {"clients": clients, **series}


async def keep_telling(watching: Prometheus, fleet: Balanced) -> None:
    while True:
        watching.tell([f"{each.host}:{each.port}" for each in fleet.gateways])
        await asyncio.sleep(0.2)  # its pace, as long as the restart lasts


def draw(found: dict[str, Any], path: Path) -> None:
    """Connections by gateway, arrivals, and what clients notice: events and their latency."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - slow to import

    from tests.benchmarks.plots import INK, STYLE  # noqa: PLC0415 - it imports the same

    with plt.rc_context(STYLE):  # type: ignore[arg-type]  # names of settings are literals there
        figure, (there, came, got) = plt.subplots(3, 1, figsize=(8, 7.5), sharex=True)
        moments = sorted({at for line in found["connections"].values() for at, _ in line})
        lines = [dict(line) for line in found["connections"].values()]
        names = [
            *(f"old {number}" for number in (1, 2, 3)),
            *(f"new {number}" for number in (1, 2, 3)),
        ]
        stacked = [[line.get(at, 0.0) for at in moments] for line in lines]
        there.stackplot(moments, stacked, labels=names, colors=COLOURS, alpha=0.8)
        there.set_ylabel("connections")
        there.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=6, handlelength=1, columnspacing=1
        )
        came.plot(*zip(*found["connects"][""], strict=True), color="#2f81f7")
        came.axhline(found["clients"] / 10, color="#e5534b", linestyle="--")
        came.text(
            0, found["clients"] / 10, "1 % of the clients in 100 ms", va="bottom", color="#e5534b"
        )
        came.set_ylim(0, found["clients"] / 8)
        came.set_ylabel("connects per second")
        got.plot(*zip(*found["delivered"][""], strict=True), color="#2f81f7")
        got.set_ylim(bottom=0)
        got.set_ylabel("events per second", color="#2f81f7")
        late = got.twinx()
        for name, line in (("p99", "-"), ("p50", ":")):
            points = [(at, value * 1000) for at, value in found[name][""]]
            late.plot(*zip(*points, strict=True), line, color="#d29922", label=f"{name}, ms")
        late.set_ylim(bottom=0)
        late.set_ylabel("ms from Redis to the socket", color="#d29922")
        late.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        got.set_xlabel("seconds")
        for axes in (there, came, got):
            axes.grid(visible=True, color=INK, alpha=0.25)
        figure.align_ylabels()
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--drain-seconds", type=int, default=30)
    parser.add_argument("--keep", type=Path, help="write the series there, as JSON")
    parser.add_argument("--draw", type=Path, help="write the picture there: .svg or .png")
    asked = parser.parse_args()
    row, series = asyncio.run(restart(asked.clients, asked.drain_seconds))
    print("\n".join(table([row.__dict__])))
    if asked.keep is not None:
        asked.keep.write_text(json.dumps(series))
    if asked.draw is not None:
        draw(series, asked.draw)


if __name__ == "__main__":
    main()
