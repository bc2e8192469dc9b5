"""Limits: claim over tenant over settings, both ways; and what a row of a tenant may say."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bucket import Bucket
from broker.config import Settings
from broker.limits import (
    LIMITS,
    MOST,
    SHARED,
    Allowance,
    Policy,
    TenantLimits,
    connects,
    tenant_limits,
)

DEFAULTS = dict.fromkeys(LIMITS, 10)
rows = st.dictionaries(st.sampled_from(sorted(LIMITS)), st.integers(0, 100))


def test_every_limit_has_a_setting_and_a_place_in_an_allowance() -> None:
    assert {limit.setting for limit in LIMITS.values()} <= Settings.model_fields.keys()
    assert [field.name for field in fields(Allowance)] == list(LIMITS)
    assert set(SHARED) == {"connections", "connects_per_second", "messages_per_minute", "runs"}


@given(rows, rows, rows)
def test_the_claim_wins_over_the_tenants_row_over_the_settings(
    claim: dict[str, int], own: dict[str, int], every: dict[str, int]
) -> None:
    """Each name for itself, up and down."""
    policy = Policy(DEFAULTS, {"acme": TenantLimits(user=own), "*": TenantLimits(user=every)})
    assert asdict(policy.of("acme", claim)) == {**DEFAULTS, **own, **claim}
    assert asdict(policy.of("other", claim)) == {**DEFAULTS, **every, **claim}
    assert asdict(policy.of("", claim)) == {**DEFAULTS, **claim}


def test_a_name_that_no_limit_has_limits_nothing() -> None:
    """A newer login service may know more of them."""
    policy = Policy(DEFAULTS, {})
    assert policy.of("", {"wishes": 3}) == policy.of("", {})
    assert policy.of("", {"runs": 2**70}).runs == MOST


def test_what_is_shared_is_the_tenants_own_row_or_every_others() -> None:
    policy = Policy(
        DEFAULTS,
        {"acme": TenantLimits({"runs": 5}), "*": TenantLimits({"connections": 7})},
    )
    assert policy.shared("acme") == {"runs": 5}
    assert policy.shared("other") == {"connections": 7}
    assert policy.shared("") == {}
    assert [policy.limits_connections(each) for each in ("acme", "other", "")] == [
        False, True, False,
    ]  # fmt: skip
    assert Policy(DEFAULTS, {"a": TenantLimits({"connects_per_second": 1})}).limits_connections("a")
    assert Policy(DEFAULTS, {}).shared("acme") == {}


def test_all_of_a_users_connections_may_come_back_at_once_and_again() -> None:
    """A gateway is restarted and fifty tabs reconnect: nobody is refused for that."""
    assert Policy({**DEFAULTS, "connections": 50}, {}).of("", {}).connects == Bucket(110, 100_000)
    assert connects(0, 50).capacity == 0


def test_the_limits_of_a_message_are_one_word_for_the_script() -> None:
    allowance = Policy({**DEFAULTS, "queued_runs": 3, "threads": 4}, {}).of("", {"runs": 2})
    assert allowance.of_messages == "10 6000000 2 3 4"


def test_rows_are_read_from_a_table_or_from_json() -> None:
    written: dict[str, Any] = {
        "acme": {"connections": 500, "user": {"connections": 5, "threads": 2**80}},
        "*": {"runs": 0},
    }
    read = tenant_limits(written)
    assert read == {
        "acme": TenantLimits({"connections": 500}, {"connections": 5, "threads": MOST}),
        "*": TenantLimits({"runs": 0}),
    }
    assert tenant_limits(json.dumps(written)) == read
    assert tenant_limits({}) == {}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is not a table"),
        (3, "it is not a table"),
        ({"acme": 3}, "acme is not a table"),
        ({"acme": {"user": 3}}, "acme.user is not a table"),
        ({3: {}}, "it is not a table"),
        ({"acme": {"wishes": 3}}, "acme.wishes is no limit; there are connections, connects"),
        ({"acme": {"threads": 3}}, "acme.threads is no limit"),
        ({"acme": {"user": {"wishes": 3}}}, "acme.user.wishes is no limit"),
        ({"acme": {"runs": "3"}}, "acme.runs is not a whole number of 0 or more"),
        ({"acme": {"runs": True}}, "acme.runs is not a whole number"),
        ({"acme": {"runs": -1}}, "acme.runs is not a whole number"),
        ({"acme": {"user": {"threads": 1.5}}}, "acme.user.threads is not a whole number"),
    ],
)
def test_what_is_no_row_is_refused_with_what_is_wrong(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tenant_limits(value)
