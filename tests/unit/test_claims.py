"""What a token may say about itself and its user, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.claims import OTHER_TYPES, Identity, Rules, check_header, identity

NOW = 1_795_000_000.0
DAY = 86400
CLAIMS = {"sub": "alice", "exp": NOW + 60}


def read(claims: object, **rules: Any) -> Identity:
    return identity(claims, Rules(**rules), now=NOW, token_hash="h")


def refused(claims: object, **rules: Any) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read(claims, **rules)
    return str(caught.value)


def header_refused(header: dict[str, Any], **rules: Any) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        check_header(header, Rules(**rules))
    return str(caught.value)


class TestHeader:
    @pytest.mark.parametrize(
        "header",
        [
            {},
            {"alg": "ES256"},
            {"typ": "JWT"},
            {"typ": "at+jwt"},
            {"typ": "anything", "kid": "k", "jku": "http://evil", "x5u": 1, "jwk": {}, "x5c": []},
            {"b64": True},
        ],
        ids=str,
    )
    def test_what_is_taken(self, header: dict[str, Any]) -> None:
        check_header(header, Rules())

    @pytest.mark.parametrize(
        ("header", "why"),
        [
            ({"crit": []}, "critical"),
            ({"crit": ["b64"], "b64": True}, "critical"),
            ({"crit": ["exp"], "exp": 1}, "critical"),
            ({"crit": None}, "critical"),
            ({"b64": False}, "base64url"),
            ({"b64": 0}, "base64url"),
            ({"b64": None}, "base64url"),
            ({"typ": 1}, "not a string"),
            ({"typ": None}, "not a string"),
            ({"typ": ["JWT"]}, "not a string"),
        ],
        ids=str,
    )
    def test_what_is_refused(self, header: dict[str, Any], why: str) -> None:
        assert why in header_refused(header)

    @pytest.mark.parametrize(
        ("configured", "told"),
        [
            ("at+jwt", "at+jwt"),
            ("at+jwt", "AT+JWT"),
            ("at+jwt", "application/at+jwt"),
            ("application/at+jwt", "at+jwt"),
            ("JWT", "jwt"),
        ],
    )
    def test_the_configured_type(self, configured: str, told: str) -> None:
        check_header({"typ": told}, Rules(token_type=configured))

    @pytest.mark.parametrize(
        "told", ["JWT", "at", "at+jwt ", "text/at+jwt", "application/application/at+jwt", ""]
    )
    def test_another_type_than_the_configured_one(self, told: str) -> None:
        assert "configured" in header_refused({"typ": told}, token_type="at+jwt")

    @pytest.mark.parametrize("configured", ["at+jwt", "JWT"])
    def test_no_type_where_one_is_configured(self, configured: str) -> None:
        assert "configured" in header_refused({}, token_type=configured)

    @pytest.mark.parametrize("told", sorted(OTHER_TYPES))
    def test_a_token_that_says_it_is_of_another_kind(self, told: str) -> None:
        for each in (told, told.removeprefix("application/").upper()):
            assert "another kind" in header_refused({"typ": each})
        check_header({"typ": told}, Rules(token_type=told))


class TestTimes:
    def test_how_long_a_token_may_be_valid(self) -> None:
        most = 30 * DAY
        assert read({"sub": "a", "exp": NOW + most}).issued_at is None
        assert "longer than 2592000 s" in refused({"sub": "a", "exp": NOW + most + 1})
        issued = {"sub": "a", "iat": NOW - DAY}
        assert read({**issued, "exp": NOW - DAY + most}).issued_at == NOW - DAY
        assert "longer" in refused({**issued, "exp": NOW - DAY + most + 1})

    def test_how_long_is_configurable(self) -> None:
        assert "longer than 59 s" in refused(CLAIMS, max_age_seconds=59)
        assert read(CLAIMS, max_age_seconds=60).subject == "alice"

    def test_a_token_that_was_issued_in_the_future(self) -> None:
        claims = {**CLAIMS, "iat": NOW + 30}
        assert refused(claims) == "iat is in the future"
        assert "iat" in refused(claims, leeway_seconds=29)
        assert read(claims, leeway_seconds=30).issued_at == NOW + 30

    def test_an_issue_time_cannot_prolong_a_token(self) -> None:
        """So a revocation that is kept for the longest age and the leeway outlives every token."""
        for issued in (NOW - DAY, NOW, NOW + 30):
            claims = {"sub": "a", "iat": issued, "exp": NOW + 31 + 100}
            assert "longer" in refused(claims, max_age_seconds=100, leeway_seconds=30)

    @pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
    @pytest.mark.parametrize(
        "value", [-1, 253402300800, NOW * 1000, float("inf"), "1", True, [], {}]
    )
    def test_what_is_no_time(self, name: str, value: object) -> None:
        assert name in refused({**CLAIMS, name: value})


class TestAddressee:
    @pytest.mark.parametrize("aud", ["gw", "api", ["api"], ["x", "gw"], [7, "gw"]])
    def test_one_of_the_configured_audiences(self, aud: object) -> None:
        assert read({**CLAIMS, "aud": aud}, audiences=("gw", "api")).subject == "alice"

    @pytest.mark.parametrize(
        "aud", [None, "GW", "gw,api", "g", ["x"], [], [["gw"]], {"gw": 1}, 7, "gw "]
    )
    def test_another_audience(self, aud: object) -> None:
        assert "aud" in refused({**CLAIMS, "aud": aud}, audiences=("gw", "api"))

    def test_another_issuer(self) -> None:
        for iss in (None, "https://evil", ["https://login"], "https://login/"):
            assert "iss" in refused({**CLAIMS, "iss": iss}, issuer="https://login")


@pytest.mark.parametrize("claims", [[], None, "alice", 7, {}])
def test_what_are_no_claims(claims: object) -> None:
    assert refused(claims)
