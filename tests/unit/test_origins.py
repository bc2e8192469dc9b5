"""Which pages may connect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ConfigurationError
from gateway.origins import Origins, canonical

OWN = Origins()


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "allowed"),
    [
        ("http://here:1", "here:1", None, True),
        ("http://there:1", "here:1", None, False),
        ("http://here:2", "here:1", None, False),
        ("http://here", "here:1", None, False),
        # Browsers leave out the default port; a client's Host may have it.
        ("https://here", "here:443", None, True),
        ("https://here", "here", None, True),
        ("http://here", "here:80", None, True),
        ("http://here", "here:443", None, False),
        # Letters' case means nothing.
        ("https://Here", "hERE", None, True),
        # The scheme counts as soon as it is known.
        ("https://here", "here", "https", True),
        ("http://here", "here", "https", False),
        ("https://here", "here", "http", False),
        ("http://[::1]:8080", "[::1]:8080", None, True),
        ("http://[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", None, True),
        ("http://[::1]:8080", "[::2]:8080", None, False),
        # What is no origin.
        ("null", "here:1", None, False),
        ("null", "null", None, False),
        ("", "", None, False),
        ("http://", "", None, False),
        ("http://[", "[", None, False),
        ("http://[::1", "[::1", None, False),
        ("http://here:1@there", "here:1", None, False),
        ("http://here:1/", "here:1", None, False),
        ("http://here:1 http://there", "here:1", None, False),
        ("http://here:0", "here:0", None, False),
        ("http://here:65536", "here:65536", None, False),
        ("http://here.", "here", None, False),
    ],
)
def test_without_a_list_only_the_gateways_own_pages_may(
    origin: str, host: str, scheme: str | None, *, allowed: bool
) -> None:
    """Bug: an origin that is no address was answered with 500, to anybody."""
    assert OWN.allow([origin], scheme=scheme, host=host) is allowed


def test_who_sends_no_origin_is_no_browser() -> None:
    assert OWN.allow([], scheme=None, host="here")
    assert Origins(["https://a.example"]).allow([], scheme="https", host="here")


def test_more_than_one_origin_is_none() -> None:
    """Nobody knows which of them a proxy would have looked at."""
    assert not OWN.allow(["http://here", "http://here"], scheme=None, host="here")
    assert not Origins(["http://here"]).allow(["http://here"] * 2, scheme=None, host="here")


@pytest.mark.parametrize(
    ("listed", "origin", "allowed"),
    [
        ("https://a.example", "https://a.example", True),
        ("https://a.example:443", "https://a.example", True),
        ("https://a.example", "https://a.example:443", True),
        ("HTTPS://A.Example", "https://a.example", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example:8443", "https://a.example:8443", True),
        ("https://a.example", "https://b.a.example", False),
        ("https://a.example", "https://a.example.evil", False),
        ("https://a.example", "https://here", False),
        ("https://a.example", "null", False),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("http://[0::1]:8080", "http://[::1]:8080", True),
        ("https://*.a.example", "https://b.a.example", True),
        ("https://*.a.example", "https://c.b.a.example", True),
        ("https://*.a.example", "https://a.example", False),
        ("https://*.a.example", "https://.a.example", False),
        ("https://*.a.example", "https://evila.example", False),
        ("https://*.a.example", "http://b.a.example", False),
        ("https://*.a.example", "https://b.a.example:8443", False),
        ("https://*.a.example:8443", "https://b.a.example:8443", True),
        ("https://*.a.example", "https://b.a.example.evil", False),
        ("https://*.a.example", "https://evil/.a.example", False),
        ("https://*.a.example", "https://evil?.a.example", False),
        ("https://*.a.example", "https://user@b.a.example", False),
        ("https://*.a.example", "https://*.a.example", False),
    ],
)
def test_a_list_is_the_whole_list(listed: str, origin: str, *, allowed: bool) -> None:
    """The gateway's own page is not on it unless it is listed too."""
    assert Origins([listed]).allow([origin], scheme="https", host="here") is allowed


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("https://a.example/", "Write https://a.example."),
        ("https://a.example/chat", "as https://chat.example"),
        ("a.example", "scheme://host"),
        ("//a.example", "scheme://host"),
        ("https://", "scheme://host"),
        ("https://a.example:99999", "scheme://host"),
        ("https://user@a.example", "scheme://host"),
        ("https://a.*.example", "scheme://host"),
        ("https://*", "scheme://host"),
        ("https://*.*.example", "scheme://host"),
        ("*", "List the pages"),
        ("null", "this origin"),
        ("wss://a.example", "Write https://a.example."),
        ("wss://*.a.example", "Write https://*.a.example."),
        ("https://café.example", "xn--"),
        ("https://[::zz]", "scheme://host"),
    ],
)
def test_an_impossible_entry_is_refused_with_what_to_write(entry: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Origins(["https://fine.example", entry])
    assert told in str(refused.value)
    assert repr(entry) in str(refused.value)
    assert "RUNCAST_ALLOWED_ORIGINS" in str(refused.value)


@given(st.text(), st.text(), st.sampled_from([None, "http", "https"]))
def test_any_text_is_allowed_or_not(origin: str, host: str, scheme: str | None) -> None:
    """Nothing is raised; what is allowed is an origin whose host is the gateway's."""
    if OWN.allow([origin], scheme=scheme, host=host):
        found = canonical(origin)
        assert found is not None
        assert found == canonical(f"{found.partition('://')[0]}://{host}")


HOSTS = st.from_regex(r"[a-z0-9]{1,5}(\.[a-z0-9]{1,5}){0,3}", fullmatch=True)


@given(st.sampled_from(["http", "https", "app"]), HOSTS, st.integers(1, 65535) | st.none())
def test_the_canonical_form_is_stable(scheme: str, host: str, port: int | None) -> None:
    origin = f"{scheme}://{host}" + ("" if port is None else f":{port}")
    found = canonical(origin.upper())
    assert found is not None
    assert canonical(found) == found
    assert found.startswith(f"{scheme}://{host}")


@given(HOSTS, HOSTS)
def test_a_name_is_below_another_only_with_a_dot_between(name: str, base: str) -> None:
    origins = Origins([f"https://*.{base}"])
    allowed = origins.allow([f"https://{name}"], scheme=None, host="")
    assert allowed is name.endswith(f".{base}")
