"""What a user and a tenant may have: the limits' names, and whose number counts.

Pure. A user's number is that of his token's claim ``limits``, else of his tenant's row, else of the
settings. What all users of a tenant may have together is in the tenant's row alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

from broker.bucket import Bucket

MOST: Final = 1_000_000_000
"""Larger numbers count as this one: it is no limit, and scripts can count with it."""

EVERY_TENANT: Final = "*"
"""The row of tenants that have none of their own."""

USERS: Final = "user"
"""In a tenant's row: what each of its users may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit: where its default comes from, and how it is refused.

    ``code``: of the HTTP problem or the ``error`` frame. ``what``: what there are too many of.
    ``shared``: a tenant may have one for all of its users together.
    """

    setting: str
    code: str
    what: str
    shared: bool = False


LIMITS: Final[Mapping[str, Limit]] = {
    "connections": Limit(
        setting="max_connections_per_user", code="too_many_connections", what="connections",
        shared=True,
    ),
    "connects_per_second": Limit(
        setting="connects_per_second", code="too_many_connects", what="new connections a second",
        shared=True,
    ),
    "messages_per_minute": Limit(
        setting="messages_per_minute", code="rate_limited", what="messages a minute", shared=True,
    ),
    "runs": Limit(setting="max_runs_per_user", code="rate_limited", what="open runs", shared=True),
    "queued_runs": Limit(
        setting="max_queued_runs_per_user", code="queue_full", what="runs that wait for a worker",
    ),
    "threads": Limit(setting="max_threads_per_user", code="rate_limited", what="threads"),
}  # fmt: skip
"""Name in a claim and in a tenant's row → the limit."""

SHARED: Final = tuple(name for name, limit in LIMITS.items() if limit.shared)


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What one user may have. 0 is none at all."""

    connections: int
    connects_per_second: int
    messages_per_minute: int
    runs: int
    queued_runs: int
    threads: int

    @cached_property
    def connects(self) -> Bucket:
        """All of his connections may come back at once, and once more, in any second."""
        return connects(self.connects_per_second, self.connections)

    @cached_property
    def of_messages(self) -> str:
        """The limits of a message, as ``register.lua`` takes them."""
        capacity, interval_us = Bucket.per(self.messages_per_minute, 60)
        return f"{capacity} {interval_us} {self.runs} {self.queued_runs} {self.threads}"


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """A tenant's row: what its users may have ``shared`` between them, and each ``user`` of it."""

    shared: Mapping[str, int] = field(default_factory=dict)
    user: Mapping[str, int] = field(default_factory=dict)


_NONE: Final = TenantLimits()


class Policy:
    """Whose number counts, for one configuration."""

    def __init__(self, defaults: Mapping[str, int], tenants: Mapping[str, TenantLimits]) -> None:
        self._tenants = tenants
        self._everyone = Allowance(**_capped(defaults))
        self._users = {
            name: Allowance(**{**_capped(defaults), **_capped(row.user)})
            for name, row in tenants.items()
        }

    def of(self, tenant: str, claim: Mapping[str, int]) -> Allowance:
        """A user's; names in the claim that are no limit's mean nothing."""
        allowance = self._everyone
        if tenant:
            allowance = self._users.get(tenant) or self._users.get(EVERY_TENANT) or allowance
        if not claim:
            return allowance
        return Allowance(**{**asdict(allowance), **_capped(claim)})

    def shared(self, tenant: str) -> Mapping[str, int]:
        """What the users of a tenant may have together: of the limits that it has, by name."""
        if not tenant:
            return _NONE.shared
        return (self._tenants.get(tenant) or self._tenants.get(EVERY_TENANT) or _NONE).shared

    def limits_connections(self, tenant: str) -> bool:
        """Whether it has to be counted how many connections its users have together."""
        return not self.shared(tenant).keys().isdisjoint(("connections", "connects_per_second"))


def connects(per_second: int, connections: int) -> Bucket:
    """How fast connections may be made, by how many there may be.

    After a gateway is gone all of its clients come back at once, and some of them twice.
    """
    return Bucket.per(per_second, 1, burst=2 * connections + per_second)


def tenant_limits(value: object) -> dict[str, TenantLimits]:
    """The rows of the setting ``tenant_limits``, a table or its JSON.

    ``ValueError`` says what is wrong with it.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from None
    rows = _table(value, "it")
    return {tenant: _row(_table(row, tenant), tenant) for tenant, row in rows.items()}


def _row(row: Mapping[str, Any], tenant: str) -> TenantLimits:
    shared = {name: value for name, value in row.items() if name != USERS}
    users = _table(row.get(USERS, {}), f"{tenant}.{USERS}")
    return TenantLimits(
        shared=_numbers(shared, tenant, SHARED), user=_numbers(users, f"{tenant}.{USERS}", LIMITS)
    )


def _table(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{place} is not a table")
    return value


def _numbers(row: Mapping[str, Any], place: str, names: Iterable[str]) -> Mapping[str, int]:
    for name, value in row.items():
        if name not in names:
            raise ValueError(f"{place}.{name} is no limit; there are {', '.join(names)}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{place}.{name} is not a whole number of 0 or more")
    return _capped(row)


def _capped(numbers: Mapping[str, int]) -> dict[str, int]:
    """Those that are limits' numbers."""
    return {name: min(number, MOST) for name, number in numbers.items() if name in LIMITS}
