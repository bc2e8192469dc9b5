"""A name server for one name: what Docker's and Kubernetes' own tell of a service's members."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

A: Final = 1
IN: Final = 1
NAME_ERROR: Final = 3
TTL_SECONDS: Final = 600
"""As Docker answers: whoever believes it sees nobody new for ten minutes."""

_HEADER: Final = struct.Struct("!6H")


class NameServer:
    """Answers with ``addresses``, which the test changes as members come and go."""

    def __init__(self, name: str) -> None:
        self.addresses: tuple[str, ...] = ()
        self.asked = 0
        """How many questions it had."""
        self._question = b"".join(bytes([len(part)]) + part for part in name.encode().split(b"."))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))

    @property
    def place(self) -> str:
        """Its address and port."""
        return "{}:{}".format(*self._socket.getsockname())

    def serve(self) -> None:
        """Until :meth:`close`."""
        while True:
            asked, whom = self._socket.recvfrom(4096)
            if not asked:
                return
            self._socket.sendto(self.answer(asked), whom)
            self.asked += 1

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())

    def answer(self, asked: bytes) -> bytes:
        """RFC 1035 section 4; what follows the question, as EDNS does, is not read."""
        number, _flags, *_counts = _HEADER.unpack_from(asked)
        end = asked.index(b"\0", _HEADER.size) + 5
        name, (kind, _class) = (
            asked[_HEADER.size : end - 5],
            struct.unpack("!2H", asked[end - 4 : end]),
        )
        addresses = self.addresses
        known = name.lower() == self._question and bool(addresses)
        found = addresses if known and kind == A else ()
        # A response, with recursion asked for and had; the name again by its place in the question.
        flags = 0x8180 | (0 if known else NAME_ERROR)
        records = b"".join(
            struct.pack("!3HIH", 0xC000 | _HEADER.size, A, IN, TTL_SECONDS, 4)
            + socket.inet_aton(each)
            for each in found
        )
        return (
            _HEADER.pack(number, flags, 1, len(found), 0, 0) + asked[_HEADER.size : end] + records
        )


@contextmanager
def name_server(name: str) -> Iterator[NameServer]:
    """One that knows of nobody yet."""
    server = NameServer(name)
    thread = threading.Thread(target=server.serve, name=f"name server of {name}")
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
        server._socket.close()
