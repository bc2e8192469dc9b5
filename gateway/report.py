"""What one gateway says of itself: into Redis every few seconds, and fresh to whoever asks it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from broker.channels import Mode
from gateway.version import product_version

if TYPE_CHECKING:
    from gateway.node import Node


def report(node: Node) -> dict[str, Any]:
    """The counters of this gateway alone; :func:`~gateway.stats.report_of` reads them."""
    modes = node.sockets.modes
    return {
        "at": time.time(),
        "version": product_version(),
        "ready": node.ready,
        "draining": node.draining,
        "uptime_seconds": round(time.monotonic() - node.started, 3),
        "by_mode": {mode.value: modes[mode.value] for mode in Mode},
        "events": asdict(node.relay.hub.counters),
        "latency": {str(at): count for at, count in node.meters.latency.counts.items()},
        "refused": dict(node.tally.refused),
        "webhooks": {} if node.webhooks is None else node.webhooks.figures,
        "by_tenant": node.tally.by_tenant(
            {each.tenant: node.sockets.of(each) for each in node.sockets.owners if not each.user}
        ),
        "slow": node.slow.figures,
    }
