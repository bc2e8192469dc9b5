"""What a run has said and Redis has not confirmed: ordered, bounded, and judged reply by reply.

And what was confirmed last: a failover to a replica that lags takes confirmed events back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

MAX_ITEMS: Final = 1000
"""As many events as a log keeps by default: more would be trimmed as they arrive."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Per run. A hundred runs that talk through a long outage then stay under half a gigabyte."""
WINDOW: Final = 64
"""Most items on their way at once: bounds what is sent again after a lost connection."""
KEPT_ITEMS: Final = 128
"""Confirmed events kept per run. A replica lags by milliseconds, a bad one by a second or two; few
agents have more to say in that time."""
KEPT_BYTES: Final = 256 * 1024
"""Of these per run: one event of the largest default size, or some hundred usual ones, and no more
than 25 MiB for a hundred runs."""


class Weighed(Protocol):
    """Anything with a size in bytes, and a number when it belongs to the log."""

    @property
    def size(self) -> int:
        """Bytes that the item occupies."""

    @property
    def seq(self) -> int | None:
        """Its number in the run, one more than the one before it; None: not a part of the log."""

    @property
    def final(self) -> bool:
        """Whether nothing is accepted after it."""


T = TypeVar("T", bound=Weighed)


class Reply(Enum):
    """What became of one item that was sent."""

    CONFIRMED = "confirmed"
    RETRY = "retry"
    """Redis was not there, or an item before this one has not arrived: send again, the same."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict(Generic[T]):
    """What :meth:`Pending.settle` found.

    ``confirmed`` have left the queue, in order; ``refused`` too: it is the first that never can be
    confirmed.
    """

    confirmed: list[T]
    refused: T | None

    @property
    def progress(self) -> bool:
        """Whether the queue moved."""
        return bool(self.confirmed)


class Pending(Generic[T]):
    """Items in the order they were said.

    The first :attr:`sent` of them may be in the log already, so they are never changed again.
    """

    __slots__ = ("_bytes", "_items", "_kept", "_kept_bytes", "max_bytes", "max_items", "sent")

    def __init__(self, *, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES) -> None:
        self._items: deque[T] = deque()
        self._bytes = 0
        self._kept: deque[T] = deque()
        self._kept_bytes = 0
        self.sent = 0
        self.max_items, self.max_bytes = max_items, max_bytes

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    @property
    def full(self) -> bool:
        """Whether there is no room for another item."""
        return len(self._items) >= self.max_items or self._bytes >= self.max_bytes

    def add(self, item: T) -> None:
        """Queue ``item``. Whoever may not exceed the bounds looks at :attr:`full` first."""
        self._items.append(item)
        self._bytes += item.size

    def last_unsent(self) -> T | None:
        """The newest item, if it was never sent and so may still grow."""
        return self._items[-1] if len(self._items) > self.sent else None

    def grown(self, by_bytes: int) -> None:
        """The item from :meth:`last_unsent` has grown."""
        self._bytes += by_bytes

    def window(self) -> list[T]:
        """What to send now, in order. Send all of it, then :meth:`settle`.

        The final item waits until what is no part of the log is confirmed: that has no numbers, so
        the end could overtake it, and then it would be too late.
        """
        items: list[T] = []
        unnumbered = False
        for item in islice(self._items, WINDOW):
            if item.final and unnumbered:
                break
            items.append(item)
            unnumbered = unnumbered or item.seq is None
        self.sent = max(self.sent, len(items))
        return items

    def settle(self, replies: Sequence[Reply]) -> Verdict[T]:
        """The replies to :meth:`window`, in its order.

        Confirmed items leave from the front only: one that is confirmed behind one that is not
        stays, is sent again and confirmed again, which changes nothing.
        """
        confirmed: list[T] = []
        refused = None
        for reply in replies:
            if reply is Reply.CONFIRMED:
                item = self.leave()
                confirmed.append(item)
                self._keep(item)
                continue
            if reply is Reply.REFUSED:
                refused = self.leave()
            break
        return Verdict(confirmed, refused)

    def rewind(self, at: int) -> int:
        """The log ends at number ``at``, though the first item is a later one than the next.

        So what was confirmed after ``at`` was lost with a master: it is put back in front, to be
        sent again in order. Returns how many items that were; 0 when not all of them are kept, and
        then nothing has changed.
        """
        first = self._items[0].seq
        if first is None or not self._kept or self._kept[-1].seq != first - 1:
            return 0
        lost = first - 1 - at
        if not 0 < lost <= len(self._kept):
            return 0
        for _ in range(lost):
            item = self._kept.pop()
            self._kept_bytes -= item.size
            self._put_back(item)
        return lost

    def replace_first(self, items: Sequence[T]) -> None:
        """Send ``items`` in place of the first one."""
        self.leave()
        for item in reversed(items):
            self._put_back(item)

    def leave(self) -> T:
        """Take the first item out."""
        item = self._items.popleft()
        self._bytes -= item.size
        self.sent -= 1
        return item

    def clear(self) -> list[T]:
        """Forget everything; what was not confirmed, in order."""
        items = list(self._items)
        self._items.clear()
        self._kept.clear()
        self._bytes = self._kept_bytes = self.sent = 0
        return items

    def _put_back(self, item: T) -> None:
        self._items.appendleft(item)
        self._bytes += item.size
        self.sent += 1

    def _keep(self, item: T) -> None:
        """Kept events are the newest, without a gap: the oldest go first."""
        if item.seq is None:
            return
        self._kept.append(item)
        self._kept_bytes += item.size
        while len(self._kept) > KEPT_ITEMS or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= self._kept.popleft().size
