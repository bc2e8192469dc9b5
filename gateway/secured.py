"""TLS on a transport, as a transport: what is below it stays in sight.

The event loops' own TLS transports say how much waits in *them*, not what they have handed down. A
client on a thin line would look as if nothing were on its way to it, and be taken for gone; one
that takes what it is given would not be seen to. Here there is one buffer, the socket's, with the
limits, the size and the pauses that it has without TLS, and nothing is kept twice.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any, Final, Never, cast

READ_BYTES: Final = 16 * 1024
"""Decrypted at once: a TLS record has no more."""


class Secured(asyncio.Transport, asyncio.Protocol):
    """The server's side of TLS: a protocol to the socket's transport, a transport to ``protocol``.

    ``protocol`` has the connection from the start, so that it can bound the time for the handshake,
    and hears of it with the first data.
    """

    __slots__ = ("_below", "_incoming", "_outgoing", "_protocol", "_shaking", "_tls")

    def __init__(self, context: ssl.SSLContext, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol: asyncio.BaseProtocol = protocol
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._below: asyncio.Transport
        self._shaking = True

    # --- the socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there, and has to begin."""
        self._below = cast("asyncio.Transport", transport)
        self._protocol.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, or hand on what the client says."""
        self._incoming.write(data)
        if self._shaking and not self._shake():
            return
        said, ended = [], False
        try:
            while chunk := self._tls.read(READ_BYTES):
                said.append(chunk)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # a broken record: what came before it is valid
            ended = True
        self._send()  # TLS' own answers, as to a change of keys
        if said and not self._below.is_closing():
            cast("asyncio.Protocol", self._protocol).data_received(b"".join(said))
        if ended:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        self._protocol.resume_writing()

    def _shake(self) -> bool:
        """Whether the handshake is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError:  # no TLS at all, or none that we accept: it is told why
            self._send()
            self._below.close()
            return False
        self._send()
        self._shaking = False
        return True

    def _send(self) -> None:
        data = self._outgoing.read()
        if data:
            self._below.write(data)

    # --- the side of those who would have the socket without TLS

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if not data or self._below.is_closing():
            return
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]
        self._send()

    def close(self) -> None:
        """Say that this is the end (RFC 8446 section 6.1), and close when everything is sent.

        The client's own goodbye is not waited for: nothing that it could still say counts.
        """
        if self._below.is_closing():
            return
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._send()
        self._below.close()

    def abort(self) -> None:
        """Close at once."""
        self._below.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._below.is_closing()

    def pause_reading(self) -> None:
        """Let the client wait."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Listen to it again."""
        self._below.resume_reading()

    def is_reading(self) -> bool:
        """Whether it is listened to."""
        return self._below.is_reading()

    @property
    def _sendfile_compatible(self) -> Never:
        """Where asyncio's loop looks before it hands a file to the kernel, which cannot encrypt it.

        aiohttp then writes the file itself, as it does on uvloop.
        """
        raise NotImplementedError  # meant, not missing: the one error at which aiohttp falls back

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the socket has not taken yet."""
        return self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """When writing pauses, and when it goes on."""
        return self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when writing pauses, and when it goes on."""
        self._below.set_write_buffer_limits(high, low)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to somebody else."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whose the connection is."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection; ``ssl_object`` is how to see that it is TLS."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._tls.context
        return self._below.get_extra_info(name, default)
