"""Who may do an operator's work: the bearer of the operator key, or of a token with that role."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from multidict import MultiMapping
from pydantic import SecretStr

from gateway.auth import bears
from gateway.credentials import AuthError, KeyMissing, bearer
from gateway.handshake import BadRequest
from gateway.node import Node

THE_KEY: Final = "operator key"
_REQUIRED: Final = "An operator token is required."


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """``name`` stands in the audit log; ``tenant`` is None for an operator of all of them."""

    name: str
    tenant: str | None


async def operator_of(
    node: Node, headers: MultiMapping[str], *, also: SecretStr | None = None
) -> Operator:
    """The operator who asks. ``also``: a key that lets others in there.

    :class:`BadRequest` when nobody asks (401 where there is a key, else 403) or another (403);
    :class:`KeyMissing` when the token cannot be verified now,
    :class:`~broker.errors.BrokerUnavailable` when it cannot be told whether it was revoked.
    """
    key = node.settings.operator_key
    refused = BadRequest("operator_required", _REQUIRED, status=403)
    if "Authorization" not in headers:
        keyless = key is None and also is None
        raise refused if keyless else BadRequest("unauthorized", _REQUIRED, status=401)
    if bears(headers, key):
        return Operator(name=THE_KEY, tenant=None)
    try:
        token = bearer(headers)
        if token is None:
            raise refused
        identity = await node.verifier.authenticate(token, time.time())
        await node.revocations.check(identity)
    except KeyMissing:
        raise
    except AuthError:
        raise refused from None
    if not identity.operator:
        raise refused
    return Operator(name=identity.subject, tenant=identity.owner.tenant or None)
