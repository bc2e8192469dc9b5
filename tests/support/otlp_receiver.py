"""A collector that speaks OTLP/HTTP, and keeps every span that it is sent.

Only where the extra ``otel`` is installed: what it reads is decoded by OpenTelemetry's own types.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.clients import eventually


@dataclass(frozen=True)
class Received:
    """One span, with the ids as text; ``events`` are its notes, ``service`` says whose it is."""

    name: str
    trace_id: str
    id: str
    parent: str
    kind: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    links: list[str]
    failed: bool
    service: str
    instance: str
    scope: str
    starts: int
    ends: int
    state: str

    @property
    def said(self) -> list[str]:
        return [name for name, _ in self.events]


class Collector:
    """``async with Collector() as collector``: :attr:`env` is what makes a program send here."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.raw: list[bytes] = []
        self.port = 0

    @property
    def env(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def until(self, condition: Callable[[list[Received]], Any]) -> list[Received]:
        """All spans, once the condition holds of them."""
        try:
            await eventually(lambda: bool(condition(self.spans)))
        except TimeoutError:
            names = [(each.name, each.trace_id[:4], each.attributes) for each in self.spans]
            raise AssertionError(f"not those spans: {names}") from None
        return self.spans

    def of(self, trace_id: str) -> list[Received]:
        """The spans of a trace."""
        return [each for each in self.spans if each.trace_id == trace_id]

    def named(self, name: str) -> list[Received]:
        return [each for each in self.spans if each.name == name]

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.raw.append(body)
        told = ExportTraceServiceRequest.FromString(body)
        for resource in told.resource_spans:
            whose = {each.key: _value(each.value) for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_received(each, whose, scope.scope.name) for each in scope.spans]
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )


def _received(span: ProtoSpan, whose: dict[str, Any], scope: str) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        attributes={each.key: _value(each.value) for each in span.attributes},
        events=[
            (each.name, {one.key: _value(one.value) for one in each.attributes})
            for each in span.events
        ],
        links=[each.span_id.hex() for each in span.links],
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        service=whose["service.name"],
        instance=whose["service.instance.id"],
        scope=scope,
        starts=span.start_time_unix_nano,
        ends=span.end_time_unix_nano,
        state=span.trace_state,
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)
