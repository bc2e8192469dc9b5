"""What a run has said and Redis has not confirmed: ordered, bounded, and judged reply by reply."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

MAX_ITEMS: Final = 1000
"""As many events as a log keeps by default: more would be trimmed as they arrive."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Per run. A hundred runs that talk through a long outage then stay under half a gigabyte."""
WINDOW: Final = 64
"""Most items on their way at once: bounds what is sent again after a lost connection."""


class Weighed(Protocol):
    """Anything with a size in bytes."""

    @property
    def size(self) -> int:
        """Bytes that the item occupies."""


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

    __slots__ = ("_bytes", "_items", "max_bytes", "max_items", "sent")

    def __init__(self, *, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES) -> None:
        self._items: deque[T] = deque()
        self._bytes = 0
        self.sent = 0
        self.max_items, self.max_bytes = max_items, max_bytes

    def __len__(self) -> int:
        return len(self._items)

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
        """What to send now, in order. Send all of it, then :meth:`settle`."""
        items = [self._items[at] for at in range(min(WINDOW, len(self._items)))]
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
                confirmed.append(self._leave())
                continue
            if reply is Reply.REFUSED:
                refused = self._leave()
            break
        return Verdict(confirmed, refused)

    def clear(self) -> list[T]:
        """Forget everything; what it was, in order."""
        items = list(self._items)
        self._items.clear()
        self._bytes = self.sent = 0
        return items

    def _leave(self) -> T:
        item = self._items.popleft()
        self._bytes -= item.size
        self.sent -= 1
        return item
