"""Where a reader of one run begins: of one that his message begins, or of one that is there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker.channels import Owner, Scope
from broker.cursor import ZERO, Cursor
from broker.redis.records import Registered
from gateway.commands import DEADLINE_SECONDS, Message
from gateway.dialects.dialect import Dialect, Run, Speak
from gateway.feed import Feed
from gateway.frames import reply
from gateway.messages import begin
from gateway.resync import Beginning
from gateway.session import FrameError

if TYPE_CHECKING:
    from gateway.node import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reader gets: first ``told``, with ``after`` as his place, then the feed from there."""

    registered: Registered
    feed: Feed
    beginning: Beginning
    told: bytes
    after: Cursor
    dialect: Dialect


async def of_message(
    node: Node, message: Message, *, speak: Speak, last: str | None = None
) -> Reading:
    """Of the run that the message begins, or had begun before; ``last``: the reader's position.

    Whoever has a position has had events: his message's run is looked up and none is begun.
    """
    if last is not None:
        registered = await node.commands.begun_by(message.owner, message.message_id)
    else:
        feed = await node.relay.open(message.channel, timeout_seconds=DEADLINE_SECONDS)
        begun_at = feed.follower.position  # before the run: none of its events is missed
        registered = await begin(node, message)
    if registered.duplicate:
        scope, ref = message.channel.scope, message.message_id
        return await _resumed(node, message.owner, registered, scope, speak, last=last, ref=ref)
    return Reading(
        registered=registered,
        feed=feed,
        beginning=Beginning(begun_at),
        told=reply("run_accepted", message.message_id, registered.told),
        after=begun_at,
        dialect=_dialect(speak, registered, None),
    )


async def of_run(
    node: Node, owner: Owner, run_id: str, *, scope: Scope, speak: Speak, last: str | None = None
) -> Reading:
    """Of this owner's run of that scope, but for what the reader has."""
    registered = await node.commands.registered(owner, run_id)
    return await _resumed(node, owner, registered, scope, speak, last=last)


async def _resumed(
    node: Node,
    owner: Owner,
    registered: Registered,
    scope: Scope,
    speak: Speak,
    *,
    last: str | None,
    ref: str | None = None,
) -> Reading:
    """From its beginning on, but for what the client has; a position that is none is told."""
    relay = node.relay
    channel = await node.commands.channel(owner, registered.run_id)
    if channel.scope is not scope:
        raise FrameError("not_allowed", "the message was sent in another mode", bad=False)
    feed = await relay.open(channel, timeout_seconds=DEADLINE_SECONDS)
    beginning, after = Beginning(ZERO), ZERO
    if last is not None:
        cursor = None
        with suppress(ValueError):
            cursor = _dialect(speak, registered, last).position(last)
        judged = await relay.begin(feed, cursor, bad_cursor=cursor is None)
        if judged.resync is None:
            after = judged.position
        else:
            last, beginning = None, Beginning(ZERO, replace(judged.resync, position=ZERO))
    return Reading(
        registered=registered,
        feed=feed,
        beginning=beginning,
        told=reply("run_accepted", ref, registered.told),
        after=after,
        dialect=_dialect(speak, registered, last),
    )


def _dialect(speak: Speak, registered: Registered, last: str | None) -> Dialect:
    return speak(Run(registered.run_id, registered.thread_id, registered.agent), last)
