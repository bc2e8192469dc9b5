from collections.abc import Callable
from typing import Any

class FastPath:
    def __init__(
        self,
        feed: type,
        follower: type,
        member: type,
        outbox: type,
        noted: tuple[bytes, ...],
        most_unsent: int,
        longest_trail: int,
        trail_cut: int,
        /,
    ) -> None: ...
    def take(
        self,
        data: bytes,
        prefix: bytes,
        feeds: dict[bytes, Any],
        dirty: dict[Any, None],
        hear: Callable[[bytes, bytes], None],
        /,
    ) -> tuple[int, bool, int, bytes, bytes]: ...
    def flush(self, sockets: dict[Any, None], /) -> None: ...

def send(fd: int, data: bytes, /) -> int: ...
