"""What both ends say of a metric: its row in a table. Pure."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

FAST: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
)  # fmt: skip
"""A histogram's upper edges in seconds, for what takes between a system call and an outage."""


class Row(NamedTuple):
    """One metric.

    ``name`` is that of its samples; a histogram's end in ``_bucket``, ``_sum`` and ``_count``.
    ``labels`` have few values each: a user, tenant, run or connection is never one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    what: str
    labels: tuple[str, ...] = ()
