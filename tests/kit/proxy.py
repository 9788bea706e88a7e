"""A TCP proxy in front of a replica: delays, cuts and corrupts what passes."""

from __future__ import annotations

import asyncio
import contextlib
import random

HOST = "127.0.0.1"
_CHUNK = 65536


class Proxy:
    """Forwards connections to `port` at `target`, both on loopback.

    Args:
        draw: decides which byte of a chunk is corrupted.

    Attributes:
        delay: seconds that each chunk waits, in both directions.
        corrupted_chunks: the part of the chunks in which one bit is flipped, from now on.
        connections: made so far; `flipped`: bits.
    """

    def __init__(self, port: int, target: int, draw: random.Random) -> None:
        self.delay = 0.0
        self.corrupted_chunks = 0.0
        self.connections = 0
        self.flipped = 0
        self._port = port
        self._target = target
        self._draw = draw
        self._down = False
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self._port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def cut(self, *, down: bool = False) -> None:
        """Close every connection; with `down`, also those to come, until `heal`."""
        self._down = down
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    def heal(self) -> None:
        """Let connections through again, untouched."""
        self._down, self.delay, self.corrupted_chunks = False, 0.0, 0.0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._down:
            writer.transport.abort()
            return
        pair = asyncio.current_task()
        assert pair is not None
        self._pairs.add(pair)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # that is what it is for
        finally:
            self._pairs.discard(pair)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        self.connections += 1
        ways = [
            asyncio.ensure_future(self._one_way(reader, far_writer)),
            asyncio.ensure_future(self._one_way(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Chunks leave in order, each `delay` after it came."""
        loop = asyncio.get_running_loop()
        while chunk := await reader.read(_CHUNK):
            if self.delay:
                loop.call_later(self.delay, self._write, writer, chunk)
            else:
                self._write(writer, chunk)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()

    def _write(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        if writer.transport.is_closing():
            return
        if self.corrupted_chunks and self._draw.random() < self.corrupted_chunks:
            flipped = bytearray(chunk)
            flipped[self._draw.randrange(len(flipped))] ^= 1 << self._draw.randrange(8)
            self.flipped += 1
            chunk = bytes(flipped)
        writer.write(chunk)
