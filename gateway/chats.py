"""What a chat of the Vercel AI SDK is here: a thread, whose runs are an agent's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from multidict import MultiMapping

from broker.channels import Level, Owner, Scope
from gateway.claims import Identity
from gateway.commands import Message
from gateway.dialects.ai_sdk_request import Answer
from gateway.handshake import Opening
from gateway.messages import message_of
from gateway.session import SendMessage

if TYPE_CHECKING:
    from gateway.node import Node


def begun_by(
    node: Node,
    identity: Identity,
    opening: Opening,
    said: SendMessage,
    headers: MultiMapping[str] | None = None,
) -> Message:
    """The message that begins a run in its chat. ``headers``: of the request that it is."""
    thread_id = said.thread_id or ""
    if opening.level is Level.STANDARD:
        opening = replace(opening, thread_id=thread_id)
    return message_of(
        node, identity, opening, said, connection_id="", thread_id=thread_id, headers=headers
    )


async def answer(node: Node, owner: Owner, given: Answer) -> None:
    """What the run, or its sub-agents, asked; the same again is the same."""
    for each in given.answers:
        await node.commands.answer(owner, each.run_id, each.request_id, each.content)


async def open_runs(node: Node, owner: Owner, chat: str, *, agent: str, scope: Scope) -> list[str]:
    """The chat's that have not ended, the one begun last first."""
    found = await node.commands.open_runs(owner, chat)
    return [each.run_id for each in found if (each.agent, each.scope) == (agent, scope)]


async def open_run(node: Node, owner: Owner, chat: str, *, agent: str, scope: Scope) -> str | None:
    """The last of them."""
    found = await open_runs(node, owner, chat, agent=agent, scope=scope)
    return found[0] if found else None
