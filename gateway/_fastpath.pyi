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
        at: int,
        prefix: bytes,
        feeds: dict[bytes, Any],
        hub: object,
        /,
    ) -> tuple[int, int, int]: ...
    def flush(self, sockets: dict[Any, None], /) -> None: ...

def send(fd: int, data: bytes, /) -> int: ...
