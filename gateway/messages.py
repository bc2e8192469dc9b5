"""A user's message, on its way from whatever transport to an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multidict import MultiMapping

from broker.redis.records import Registered
from gateway.claims import Identity
from gateway.commands import Message, new_id
from gateway.handshake import Opening
from gateway.message_trace import accepting, of_request
from gateway.session import SendMessage

if TYPE_CHECKING:
    from gateway.node import Node


def message_of(
    node: Node,
    identity: Identity,
    opening: Opening,
    command: SendMessage,
    *,
    connection_id: str,
    thread_id: str,
    headers: MultiMapping[str] | None = None,
) -> Message:
    """The message and the run that it is to begin, with what limits both.

    ``headers``: those of the request that it is, if it is one.
    """
    run_id = new_id()
    return Message(
        run_id=run_id,
        owner=identity.owner,
        channel=node.channel(identity, opening, connection_id, run_id),
        thread_id=thread_id,
        agent=command.agent,
        content=command.content,
        metadata=command.metadata,
        message_id=command.ref or new_id(),
        allowance=node.admission.allowance(identity),
        shared=node.admission.policy.shared(identity.owner.tenant),
        trace=of_request(headers, command.metadata),
    )


async def begin(node: Node, message: Message) -> Registered:
    """Register the message's run, once per message id, and give it to its agent's workers."""
    with accepting(node.tracing, message, node_id=node.node_id) as acceptance:
        spec = await node.commands.agent(message.agent)
        registered = await node.commands.register(acceptance.message, spec)
        acceptance.accepted(registered)
        if not registered.duplicate:
            node.tally.accept(message.owner.tenant)
        await node.commands.enqueue(registered, spec, message.owner)
    return registered
