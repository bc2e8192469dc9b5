"""The hub: which sockets read which channel, and what each of them gets (promises G2, G4, G7).

Pure: it takes live messages and log pages and pushes framed bytes into outboxes. What needs I/O (a
hole to refill, a socket to feed from the log) it names in :class:`Needs`, and the relay does it.
One class, though long: the order of what a socket gets is decided in one place.

One event is framed once, however many sockets get it. Before every push the owner that the event
names is compared with the connection's own; what does not match is withheld and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from broker.channels import Channel
from broker.codec import NO_ID, WORDS, Entry, from_live, is_id
from broker.events import AGENT_COMPLETED, AGENT_DELTA, AGENT_STARTED, USER_MESSAGE
from broker.replay import Follower
from gateway.feed import Batch, Feed, Joining, Member, Missed
from gateway.frames import FIVE, ws_event
from gateway.wires import WEBSOCKET, Frames

_DELTA = AGENT_DELTA.encode()
_STARTED = AGENT_STARTED.encode()
_COMPLETED = AGENT_COMPLETED.encode()
_MESSAGE = USER_MESSAGE.encode()
NOTED = frozenset((_MESSAGE, _STARTED, _COMPLETED))
TAKEN_OVER = b"taken_over"
"""Type of the notice that another socket took an isolated connection up."""

MAX_EARLY_DELTAS = 1024


class Needs(Protocol):
    """What the hub asks of its shell."""

    def unclaimed(self, live: bytes, message: bytes) -> None:
        """A message on a channel that is not a feed's."""

    def repair(self, feed: Feed) -> None:
        """The feed has a hole: read its log."""

    def refill(self, feed: Feed, run: bytes) -> None:
        """A delta of this run was missed: read the kept text."""

    def feed_from_log(self, feed: Feed, member: Member, follower: Follower) -> None:
        """The socket has no room, or lost touch: feed it from there when it has."""

    def taken_over(self, feed: Feed, by: bytes) -> None:
        """Another socket took this isolated connection up."""

    def unreadable(self, feed: Feed) -> None:
        """A message that is neither an event nor a notice."""

    def malformed(self, feed: Feed, entry: Entry) -> None:
        """A body that cannot be put into the V2 shape."""

    def withheld(self, feed: Feed, entry: Entry) -> None:
        """An event that is not its reader's was about to be written, and was not."""


@dataclass(slots=True)
class Counters:
    """What this hub did since it was made."""

    published: int = 0
    delivered: int = 0
    replayed: int = 0
    repaired: int = 0
    resyncs: int = 0
    isolation_violations: int = 0


class Hub:
    """All feeds of one gateway."""

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self.by_channel: dict[bytes, Feed] = {}
        """Live channel → its feed."""
        self.dirty: dict[Member, None] = {}
        self._batched: list[Feed] = []
        self.counters = Counters()
        self.resyncs: Counter[str] = Counter()
        """Why clients were told to begin anew, by reason."""
        self.first_heard = b""
        """Id of the event heard first since somebody has set this back: it has waited longest."""
        self.first_body = b""
        """Its body."""

    def feed(self, channel: Channel) -> Feed | None:
        """The feed of a channel, if there is one."""
        return self.by_channel.get(channel.live)

    def feeds(self) -> Iterable[Feed]:
        """All of them, now."""
        return list(self.by_channel.values())

    def feeds_of(self, live: Iterable[bytes]) -> list[Feed]:
        """Those of the given live channels that there are."""
        return [feed for feed in map(self.by_channel.get, live) if feed is not None]

    def add(self, channel: Channel) -> Feed:
        """A new feed, behind until its log was read."""
        feed = Feed(channel, channel.owner.token.encode())
        self.by_channel[channel.live] = feed
        return feed

    def remove(self, feed: Feed) -> None:
        """Forget a feed."""
        del self.by_channel[feed.channel.live]

    def on_message(self, live: bytes, message: bytes) -> None:
        """A live message from Redis. The hot path.

        What nearly all of them are, the next event of a level channel, one that begins and ends
        nothing, is passed on without an :class:`Entry`: each object and each call that is saved
        here shows in what a delivery costs.
        """
        feed = self.by_channel.get(live)
        if feed is None:
            self._needs.unclaimed(live, message)
            return
        header, newline, body = message.partition(b"\n")
        words = header.split(b" ")
        follower = feed.follower
        if (
            len(words) == WORDS
            and words[1] == follower.raw
            and follower.level
            and words[2] == feed.owner
            and words[6] not in NOTED
            and not feed.joining
            and is_id(words[0])
            and newline
        ):
            event_id = words[0]
            follower.advance(event_id)
            self.counters.published += 1
            if not self.first_heard:
                self.first_heard, self.first_body = event_id, body
            frame = ws_event(event_id, body)
            if len(feed.live) == 1:
                self._deliver(feed, frame, ((header, body, frame),))
            else:
                if not feed.batch:
                    self._batched.append(feed)
                feed.batch.append((header, body, frame))
        else:
            self._hear(feed, message)

    def read_ended(self) -> None:
        """Everything of one read was heard: what many are to get goes to each in one piece."""
        if self._batched:
            batched, self._batched = self._batched, []
            for feed in batched:
                self._settle(feed)

    def _settle(self, feed: Feed) -> None:
        if feed.batch:
            batch, feed.batch = feed.batch, []
            self._deliver(feed, b"".join([frame for _, _, frame in batch]), batch)

    def _hear(self, feed: Feed, message: bytes) -> None:
        self._settle(feed)
        try:
            entry = from_live(message)
            if entry.id == NO_ID:
                self._notice(feed, entry)
                return
        except ValueError:
            self._needs.unreadable(feed)
            return
        self.counters.published += 1
        if feed.follower.hear(entry):
            if not self.first_heard:
                self.first_heard, self.first_body = entry.id, entry.body
            self.emit(feed, entry)
        elif not feed.follower.level:
            self._needs.repair(feed)

    def emit(self, feed: Feed, entry: Entry) -> None:
        """Give the channel's next event to everyone who reads it."""
        if entry.owner != feed.owner:
            self._withhold(feed, entry)
            return
        if entry.type in NOTED:
            self._note_run(feed, entry)
        plain = ws_event(entry.id, entry.body)
        self._deliver(feed, plain, ((entry.header, entry.body, plain),))
        if feed.joining:
            self._emit_joining(feed, entry, Frames(entry, plain))
        if entry.type == _COMPLETED:
            for member in feed.live:
                if member.floors is not None:
                    member.floors.pop(entry.run, None)

    def _deliver(self, feed: Feed, plain: bytes, batch: Batch) -> None:
        """Push the feed's next events, all of its owner, to those who are level.

        ``plain``: all of their frames, for those who get every event as it is.
        """
        owner, dirty = feed.owner, self.dirty
        others: list[Member] | None = None
        for member in feed.live:
            if member.whole and member.owner == owner and member.outbox.push(plain):
                dirty[member] = None
            elif others is None:
                others = [member]
            else:
                others.append(member)
        if others is None:
            self.counters.delivered += len(batch) * len(feed.live)
            return
        self.counters.delivered += len(batch) * (len(feed.live) - len(others))
        for header, body, frame in batch:
            entry = Entry(header, body)
            frames = Frames(entry, frame)
            for member in others:
                if member in feed.live and not self._passed(feed, member, entry, frames):
                    del feed.live[member]
                    self._needs.feed_from_log(feed, member, feed.follower.behind(entry.prev))

    def write(self, feed: Feed, member: Member, entry: Entry) -> bool:
        """Give one socket an event read from the log; False when it has no room."""
        if entry.owner != feed.owner:
            self._withhold(feed, entry)
            return True
        if (joining := feed.joining.get(member)) is not None:
            self._note_end(joining, entry)
        return self._passed(feed, member, entry, Frames(entry, ws_event(entry.id, entry.body)))

    def join(self, feed: Feed, member: Member, follower: Follower) -> bool:
        """Let a socket that has everything up to ``follower`` read what is live.

        False when something has to be read for it first: the log, or a run's kept text.
        """
        if not feed.follower.level or follower.raw != feed.follower.raw:
            return False
        if feed.missed_texts or any(feed.texts.values()):
            return False
        feed.live[member] = None
        return True

    def level(self, feed: Feed, member: Member) -> None:
        """The socket has read its log to the end: from now on it gets what is live."""
        joining = feed.joining[member]
        deltas, joining.deltas = joining.deltas or [], None
        # A delta that continues nothing this socket has is of a run that ended before its text was
        # read: the terminal event has the response.
        begun = {each.run for each in deltas if each.seq == b"0"}.union(member.floors or ())
        mine = [each for each in deltas if each.run in begun and each.run not in joining.ended]
        given = (self._write_delta(feed, member, each) for each in mine)
        if joining.starved or not all(given):
            self._feed_again(feed, member, joining)
        elif joining.follower.position == feed.follower.position:
            del feed.joining[member]
            feed.live[member] = None
        else:
            joining.waits = True

    def emit_delta(self, feed: Feed, delta: Entry) -> None:
        """Give a delta to everyone who is level."""
        feed.texts[delta.run] = int(delta.prev)
        frame = WEBSOCKET.text(delta.body)
        for member in list(feed.live):
            if not self._write_delta(feed, member, delta, frame):
                del feed.live[member]
                self._needs.feed_from_log(feed, member, feed.follower.behind(feed.follower.raw))
        for member, joining in list(feed.joining.items()):
            if joining.deltas is None:
                if joining.waits and not self._write_delta(feed, member, delta, frame):
                    self._feed_again(feed, member, joining)
            elif len(joining.deltas) < MAX_EARLY_DELTAS:
                joining.deltas.append(delta)
            else:
                joining.starved = True

    def snapshot(self, feed: Feed, member: Member, delta: Entry) -> None:
        """Give a joining socket a run's whole text so far; older deltas under way are skipped."""
        if member in feed.joining and delta.run in feed.joining[member].ended:
            return
        if member.floors is None:
            member.floors = {}
        member.floors.pop(delta.run, None)
        if not self._write_delta(feed, member, delta):
            feed.joining[member].starved = True
        member.floors[delta.run] = int(delta.prev)

    def _passed(self, feed: Feed, member: Member, entry: Entry, frames: Frames) -> bool:
        if member.thread is not None and member.thread != entry.thread:
            return True
        return self._write(feed, member, entry, frames)

    def _write(self, feed: Feed, member: Member, entry: Entry, frames: Frames) -> bool:
        if member.owner != entry.owner:
            self._withhold(feed, entry)
            return True
        if entry.type not in FIVE and member.lifecycle_only:
            return True
        try:
            frame = frames.on(member.wire)
        except ValueError:  # not an event in its old shape either; the others get it as it is
            self._needs.malformed(feed, entry)
            return True
        if not member.outbox.push(frame):
            return False
        self.counters.delivered += 1
        self.dirty[member] = None
        return True

    def _emit_joining(self, feed: Feed, entry: Entry, frames: Frames) -> None:
        for member, joining in list(feed.joining.items()):
            follower = joining.follower
            self._note_end(joining, entry)
            if follower.hear(entry) and not self._passed(feed, member, entry, frames):
                follower.give_back(entry)
            if not joining.waits:
                continue  # whoever feeds it sees whether it is still level
            if not follower.level or follower.lacks(entry):
                self._feed_again(feed, member, joining)
            elif follower.position == entry.cursor:
                del feed.joining[member]
                feed.live[member] = None

    def doubt(self, feed: Feed) -> None:
        """A failover took the feed back: whoever joins it may stand on what is gone as well."""
        for member, joining in list(feed.joining.items()):
            joining.doubted = True
            if joining.waits:
                self._feed_again(feed, member, joining)

    def _note_end(self, joining: Joining, entry: Entry) -> None:
        if joining.deltas is not None and entry.type == _COMPLETED:
            joining.ended.add(entry.run)

    def _feed_again(self, feed: Feed, member: Member, joining: Joining) -> None:
        del feed.joining[member]
        follower = joining.follower
        self._needs.feed_from_log(feed, member, follower.behind(follower.raw))

    def _note_run(self, feed: Feed, entry: Entry) -> None:
        if entry.type == _MESSAGE:
            feed.open_runs[entry.run] = None
        elif entry.type == _STARTED:
            feed.open_runs[entry.run] = None
            feed.texts[entry.run] = 0
            if (missed := feed.missed_texts.get(entry.run)) is not None:
                missed.void = True
        elif entry.type == _COMPLETED:
            feed.open_runs.pop(entry.run, None)
            feed.texts.pop(entry.run, None)

    def _notice(self, feed: Feed, notice: Entry) -> None:
        if notice.type == TAKEN_OVER:
            self._needs.taken_over(feed, notice.seq)
        elif notice.type == _DELTA:
            self.hear_delta(feed, notice)

    def hear_delta(self, feed: Feed, delta: Entry) -> None:
        """A live delta: pass it on, or have the kept text read."""
        offset, following = int(delta.seq), int(delta.prev)
        known = feed.texts.get(delta.run)
        missed = feed.missed_texts.get(delta.run)
        if missed is not None:
            if len(missed.deltas) < MAX_EARLY_DELTAS:  # beyond: hearing these shows the hole
                missed.deltas.append(delta)
        elif offset in (0, known):
            self.emit_delta(feed, delta)
        elif known is None or following > known:
            feed.missed_texts[delta.run] = Missed([delta])
            self._needs.refill(feed, delta.run)

    def refilled(self, feed: Feed, run: bytes, text: Entry | None) -> None:
        """The run's kept text; what was kept back continues it.

        It reaches no further than what was said before all that is still to be heard.
        """
        missed = feed.missed_texts.pop(run)
        if run not in feed.open_runs:
            return  # it ended meanwhile: the terminal event has the response
        if missed.void:
            feed.missed_texts[run] = Missed()
            self._needs.refill(feed, run)
            return
        heard = missed.deltas
        if text is not None:
            self.emit_delta(feed, text)
        # One that does not continue it is of an attempt before, or the text was lost.
        continued = heard and int(heard[0].seq) == feed.texts.get(run)
        for delta in heard if continued else heard[1:]:
            self.hear_delta(feed, delta)

    def _write_delta(
        self, feed: Feed, member: Member, delta: Entry, plain: bytes | None = None
    ) -> bool:
        """False: no room, or it begins within what the socket has.

        ``plain``: its frame for a WebSocket, if somebody has made it.

        The text is kept beside the log; the socket gets it whole when it is level again.
        """
        if member.owner != delta.owner:
            self._withhold(feed, delta)
            return True
        if member.lifecycle_only or member.thread not in (None, delta.thread):
            return True
        if member.floors and (floor := member.floors.get(delta.run)) is not None:
            if 0 < int(delta.seq) < floor:
                return int(delta.prev) <= floor
            del member.floors[delta.run]
        wire = member.wire
        frame = plain if plain is not None and wire is WEBSOCKET else wire.text(delta.body)
        if not member.outbox.push(frame):
            return False
        self.dirty[member] = None
        return True

    def told_resync(self, reason: str) -> None:
        """A client, or all readers of a feed, were told that something is missing, and why."""
        self.counters.resyncs += 1
        self.resyncs[reason] += 1

    def _withhold(self, feed: Feed, entry: Entry) -> None:
        self.counters.isolation_violations += 1
        self._needs.withheld(feed, entry)
