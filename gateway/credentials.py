"""Where a request may carry its token, in the order of protocol section 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import jwt
from multidict import MultiMapping

OUTWARD: Final = {
    "unauthorized": "A valid token is required.",
    "query_token_not_allowed": "This gateway does not accept tokens in the address.",
    "keys_unavailable": "Tokens cannot be verified now; try again.",
}
"""Code → all that the peer gets to read."""


class AuthError(Exception):
    """The request is not authenticated: HTTP 401, close code 4401.

    ``str()`` and ``code`` may go out; ``log_reason`` and ``token_hash`` are for the log only.
    """

    status = 401

    def __init__(self, code: str, log_reason: str, token_hash: str = "") -> None:
        self.code, self.log_reason, self.token_hash = code, log_reason, token_hash
        super().__init__(OUTWARD[code])


class KeyMissing(AuthError):
    """Whether it is authenticated cannot be said now: HTTP 503, close code 4503.

    The key is not here, and whether there is one could not be asked. ``kid`` is its name, None when
    there are no keys at all.
    """

    status = 503

    def __init__(self, kid: str | None, log_reason: str, token_hash: str) -> None:
        self.kid = kid
        super().__init__("keys_unavailable", log_reason, token_hash)


@dataclass(frozen=True, slots=True)
class TokenOffer:
    """A token, or a ticket for one, as a request brings it, not verified.

    ``place`` is ``authorization``, ``subprotocol``, ``ticket``, ``query`` or ``none`` (then
    ``token`` is ``None``). ``subprotocol_answer`` is the protocol name to answer the handshake
    with, wherever the token is.
    """

    token: str | None
    place: str
    subprotocol_answer: str | None


def token_from_request(
    headers: MultiMapping[str], query: MultiMapping[str], *, allow_query_token: bool
) -> TokenOffer:
    """The first token in protocol section 5's order of places.

    :raises AuthError: the token's place is not available here, or it is written wrongly.
    """
    answer = subprotocol_answer(headers)
    token = bearer(headers)
    if token is not None:
        return TokenOffer(token, "authorization", answer)
    token = _subprotocol_token(headers, answer)
    if token is not None:
        return TokenOffer(token, "subprotocol", answer)
    if "ticket" in query:
        return TokenOffer(_only(query.getall("ticket")), "ticket", answer)
    if "token" in query:
        if not allow_query_token:
            raise AuthError("query_token_not_allowed", "a token in the query was offered")
        return TokenOffer(_only(query.getall("token")), "query", answer)
    return TokenOffer(None, "none", answer)


def subprotocol_answer(headers: MultiMapping[str]) -> str | None:
    """The protocol name that the client offered and the server may answer; never the token's.

    A refusal by close code needs it too: a browser drops a handshake without it.
    """
    for name in _offered(headers):
        if name in ("runcast.v3", "jwt-auth"):
            return name
    return None


def bearer(headers: MultiMapping[str]) -> str | None:
    """The credential of a bearer header; of another scheme it is somebody else's, not ours."""
    offered = []
    for value in headers.getall("Authorization", []):
        scheme, _, credential = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            offered.append(credential.strip())
    return _only(offered) if offered else None


def _offered(headers: MultiMapping[str]) -> list[str]:
    values = headers.getall("Sec-WebSocket-Protocol", [])
    return [name.strip() for value in values for name in value.split(",")]


def _subprotocol_token(headers: MultiMapping[str], answer: str | None) -> str | None:
    offered = [name.removeprefix("jwt.") for name in _offered(headers) if name.startswith("jwt.")]
    if not offered:
        return None
    if answer is None:
        raise AuthError("unauthorized", "a token among the subprotocols without a protocol's name")
    token = _only(offered)
    return _unpadded_base64url(token) if answer == "jwt-auth" else token


def _unpadded_base64url(word: str) -> str:
    try:
        return jwt.utils.base64url_decode(_only_base64url(word)).decode("ascii")
    except ValueError:
        raise AuthError("unauthorized", "jwt-auth token is not base64url of a token") from None


def _only_base64url(word: str) -> str:
    """Python's decoder skips what is foreign; here it is refused."""
    if not word or not word.isascii() or not word.replace("-", "a").replace("_", "a").isalnum():
        raise ValueError("not base64url")
    return word


def _only(offered: list[str]) -> str:
    if len(offered) != 1:
        raise AuthError("unauthorized", f"{len(offered)} tokens in one place")
    return offered[0]
