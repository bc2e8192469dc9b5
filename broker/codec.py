r"""The form in which Redis stores and publishes an event: a short header, then the encoded body.

::

    log entry      field ``e`` =         "<prev> <owner> <thread> <run> <seq> <type>\n<body>"
    live message                  "<id> <prev> <owner> <thread> <run> <seq> <type>\n<body>"
    live delta                       "- <next> <owner> <thread> <run> <offset> agent_delta\n<body>"

The gateway reads the header only. Words are percent-encoded, so neither spaces nor newlines occur
in them. ``prev`` is the id of the entry before this one in the same log, ``0-0`` for the first.
"""

from __future__ import annotations

import re
from typing import Final

from broker.channels import Owner, encode_id
from broker.cursor import ZERO, Cursor, from_redis

WORDS: Final = 7
"""Of a header."""

NO_ID: Final = b"-"
"""Stands for the id of a live message that is not in the log."""

is_id: Final = re.compile(rb"\d{1,20}-\d{1,20}").fullmatch


class Entry:
    """One event as the gateway sees it: the header's raw words, and ``body``, JSON without id."""

    __slots__ = ("body", "header", "id", "owner", "prev", "run", "seq", "thread", "type")

    header: bytes
    id: bytes
    prev: bytes
    owner: bytes
    thread: bytes
    run: bytes
    seq: bytes
    type: bytes
    body: bytes

    def __init__(self, header: bytes, body: bytes) -> None:
        self.header, self.body = header, body
        # fmt: off
        self.id, self.prev, self.owner, self.thread, self.run, self.seq, self.type = \
            header.split(b" ")
        # fmt: on

    @property
    def cursor(self) -> Cursor:
        """The id, to be compared; ``0-0`` without one."""
        return ZERO if self.id == NO_ID else from_redis(self.id)

    def text(self) -> bytes:
        """The event as clients get it: the body, with its id joined in."""
        return self.body if self.id == NO_ID else with_id(self.id, self.body)


def with_id(event_id: bytes, body: bytes) -> bytes:
    """The event as clients get it: the body, with its id joined in."""
    return b'{"id":"' + event_id + b'",' + body[1:]


def from_live(message: bytes) -> Entry:
    """A live message. ``ValueError`` when it is not of the form above."""
    header, newline, body = message.partition(b"\n")
    if not newline or not header.isascii():
        raise ValueError("a live message has a header line, in ASCII")
    entry = Entry(header, body)
    if not is_id(entry.id) and entry.id != NO_ID:
        raise ValueError("an id looks like 1763861234567-0")
    return entry


def from_log(entry_id: bytes, value: bytes) -> Entry:
    """A log entry's id and its field ``e``."""
    entry = from_live(entry_id + b" " + value)
    if not is_id(entry.prev):
        raise ValueError("a log entry is linked to the one before")
    return entry


def unreadable(entry_id: bytes, prev: bytes) -> Entry:
    """Stands for a log entry that is not of the form above: its place in the log and no more.

    It belongs to nobody, so nobody gets it; what follows it is linked to it.
    """
    return Entry(entry_id + b" " + prev + b" - - - 0 -", b"{}")


def head(owner: Owner, thread_id: str, run_id: str) -> bytes:
    """The words of the header that stay the same for a whole run; kept in the run's hash."""
    return f"{owner.token} {encode_id(thread_id)} {encode_id(run_id)}".encode()
