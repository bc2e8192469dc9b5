"""``GET /metrics``: who may scrape, and the answer of all processes behind the port."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import readings
from gateway.auth import bears
from gateway.handshake import BadRequest
from gateway.http_api import NODE, is_open
from gateway.metrics import Exposition, Sample
from gateway.operators import operator_of
from gateway.siblings import Siblings

PATH: Final = "/metrics"
ALONE: Final = "0"
"""The process's name when there is but one."""

SIBLINGS: Final = web.AppKey("siblings", Siblings)


async def metrics(request: web.Request) -> web.Response:
    """``GET /metrics``: figures of this gateway and of the fleet, for Prometheus.

    For the bearer of ``RUNCAST_METRICS_KEY`` or an operator of the whole fleet. Of several
    processes that share the port, all are asked and told apart by the label ``process``.
    """
    node, siblings = request.app[NODE], request.app.get(SIBLINGS)
    key = node.settings.metrics_key
    if not (bears(request.headers, key) or is_open(request)):
        operator = await operator_of(node, request.headers, also=key)
        if operator.tenant is not None:
            raise BadRequest("operator_required", "for an operator of the whole fleet", status=403)
    if siblings is None:
        mine, fleet = await asyncio.gather(readings.of_process(node), readings.of_fleet(node))
        told: dict[str, list[Sample] | None] = {ALONE: mine}
    else:
        told, fleet = await asyncio.gather(siblings.all(), readings.of_fleet(node))
    fleet.append(Sample("runcast_processes", (), len(told)))
    fleet += [
        Sample("runcast_process_up", (name,), samples is not None) for name, samples in told.items()
    ]
    answer = Exposition({name: samples or () for name, samples in told.items()}, fleet)
    return web.Response(
        body=generate_latest(answer),
        headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
    )
