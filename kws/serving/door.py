"""A socket that bounds its clients: how many there are, how long they may stall, how much a line of theirs may hold."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from kws.errors import KwsError

LINE = 16 << 10  # bytes of a header or of a request's head
STALL_S = 10.0  # for a message that has begun to arrive, or an answer that is not read
QUIET_S = 2.0  # a client silent for longer makes room for another when all places are taken
LINGER_S, LINGER_READS = 1.0, 16  # what a refused client still sends is read for so long: else it may not see why
BUFFER = 64 << 10  # bytes read at a time, or waiting to be sent


class Client:
    """One connection.

    Attributes:
        name: its address and port.
        active: when it last sent something whole (`time.monotonic`).
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer, self.active = reader, writer, time.monotonic()
        self.name = "{}:{}".format(*(writer.get_extra_info("peername") or ("?", "?"))[:2])
        writer.transport.set_write_buffer_limits(BUFFER)

    async def send(self, data: bytes) -> None:
        """Raises TimeoutError where nobody reads, ConnectionError where nobody is."""
        for at in range(0, len(data), BUFFER):
            self.writer.write(data[at : at + BUFFER])
            async with asyncio.timeout(STALL_S):
                await self.writer.drain()

    async def close(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self.writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                for _ in range(LINGER_READS):
                    if not await self.reader.read(BUFFER):
                        break
        self.writer.transport.abort()


class Door:
    """Listens at an address and gives each client to `talk`, until the context ends.

    Args:
        talk: a client's whole conversation; OSError (TimeoutError too) and IncompleteReadError end it.
        port: 0 takes any that is free.
        most: clients at a time.

    Attributes:
        port: the one that is open.

    Raises:
        KwsError: the address cannot be opened.
    """

    def __init__(self, talk: Callable[[Client], Awaitable[None]], host: str, port: int, most: int):
        self.talk, self.host, self.port, self.most = talk, host, port, most
        self.clients: set[Client] = set()
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self) -> "Door":
        try:
            self._server = await asyncio.start_server(self._enter, self.host, self.port, limit=LINE)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise KwsError(f"host={self.host} port={self.port} cannot be opened: {reason}; give another") from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_) -> None:
        self._server.close()
        for client in self.clients:
            client.writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STALL_S)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self.clients) >= self.most:
            quietest = min(self.clients, key=lambda client: client.active)
            if time.monotonic() - quietest.active < QUIET_S:
                writer.transport.abort()
                return
            self.clients.remove(quietest)
            quietest.writer.transport.abort()
        client = Client(reader, writer)
        self.clients.add(client)
        self._tasks.add(task := asyncio.current_task())
        try:
            await self.talk(client)
        except (OSError, asyncio.IncompleteReadError):  # gone, or stalled: TimeoutError is one of the former
            pass
        finally:
            await client.close()
            self.clients.discard(client)
            self._tasks.discard(task)
