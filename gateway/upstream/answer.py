"""A provider's answer on its connection, between the race that won it and the relay that carries it.

Owns its lease: whoever holds an Answer must `close` it, which puts the connection back when the response ended
cleanly and closes the socket otherwise, so that the provider stops generating.
"""

from __future__ import annotations

from gateway.core.call import Attempt
from gateway.dialects.chat_stream import ChatStream, StreamFault
from gateway.dialects.openai_chat import ChatAnswer
from gateway.upstream.http1 import BadResponse, ResponseReader
from gateway.upstream.pool import Lease
from gateway.upstream.transport import TransportBroken


class Answer:
    """`chat` is None for a non-stream answer, which is `whole` once won. `pending` is what the client is owed,
    `bytes_out` what it was sent.
    """

    __slots__ = ("attempt", "bytes_out", "chat", "ended", "lease", "parts", "pending", "reader", "whole")

    def __init__(self, attempt: Attempt, lease: Lease, reader: ResponseReader, chat: ChatStream | None) -> None:
        self.attempt = attempt
        self.lease = lease
        self.reader = reader
        self.chat = chat
        self.pending = b""
        self.bytes_out = 0
        self.parts: list[bytes] = []
        self.whole: ChatAnswer | None = None
        self.ended = False

    def advance(self, raw: bytes) -> bytes:
        """Take bytes off the wire, return bytes for the client. Sets `ended`. Raises StreamFault."""
        chat = self.chat
        assert chat is not None
        try:
            body = self.reader.feed(raw)
        except BadResponse:
            raise StreamFault("cut") from None
        out = chat.feed(body) if body else b""
        if chat.done:
            self.ended = True
        elif self.reader.complete:
            try:
                out += chat.end()
            except StreamFault as fault:
                fault.before = out + fault.before
                raise
            self.ended = True
        return out

    async def receive(self) -> bytes:
        """Bytes off the wire. Raises StreamFault when the connection broke."""
        try:
            return await self.lease.transport.receive()
        except TransportBroken:
            raise StreamFault("cut") from None

    def receive_now(self) -> bytes | None:
        """Bytes off the wire, None when nothing is there. Raises StreamFault when the connection broke."""
        try:
            return self.lease.transport.receive_now()
        except TransportBroken:
            raise StreamFault("cut") from None

    def close(self) -> None:
        """Give the connection back or close it. Idempotent."""
        reader = self.reader
        if self.ended and reader.complete and reader.keep_alive:
            self.lease.release()
        elif self.ended and not reader.complete and self.chat is not None and self.chat.done:
            self.lease.release(reader)  # `[DONE]` came before the last chunk: finish it when the connection is wanted
            return
        else:
            self.lease.close()
        reader.close()
