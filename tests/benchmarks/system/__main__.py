"""``python -m tests.benchmarks.system [SCENARIO…] [--quick] [--only SYSTEM]``: see --help."""

import argparse
import json
import time

from tests.benchmarks.system import connect, delivery, idle
from tests.benchmarks.system.feed import Pace
from tests.benchmarks.system.systems import (
    Floor,
    HiredisForwarder,
    JoiningFloor,
    PlainAiohttp,
    Runcast,
)

KINDS = {k.name: k for k in (Floor, JoiningFloor, HiredisForwarder, PlainAiohttp, Runcast)}
PACES = {"bulk": delivery.BULK, "2000": Pace(rate=2000), "5000": Pace(rate=5000)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", nargs="+")
    parser.add_argument("--only", action="append", default=[])
    args = parser.parse_args()
    for scenario in args.scenario:
        for name, kind in KINDS.items():
            if args.only and not any(each.lower() in name.lower() for each in args.only):
                continue
            began = time.monotonic()
            found = {
                "delivery": lambda kind: delivery.measure(kind, PACES, delivery.Sizes()),
                "bulk": lambda kind: delivery.measure(
                    kind, {"bulk": delivery.BULK}, delivery.Sizes()
                ),
                "idle": lambda kind: idle.measure(kind, idle.Sizes()),
                "connect": lambda kind: connect.measure(kind, connect.Sizes()),
                "disturbance": lambda kind: connect.disturbance(kind, connect.Sizes()),
            }[scenario](kind)
            print(f"{scenario} {name} ({time.monotonic() - began:.0f} s)")
            for key, value in found.items():
                if isinstance(value, dict):
                    value = {k: round(v, 3) for k, v in value.items() if k != "latency_ns"}
                print(f"  {key:>22} {json.dumps(value)}", flush=True)


if __name__ == "__main__":
    main()
