"""A worker's end of the pipe to its supervisor, by which a change reaches all workers or none."""

import asyncio
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from service.reload import Change, Outcome, Reload

LOST = Outcome("refused", "the supervisor ended; nothing was changed")


class Control:
    """Asks the supervisor for changes, and does what it says."""

    def __init__(self, pipe: "Connection[Any, Any]", reload: Reload) -> None:
        self._pipe = pipe
        self._reload = reload
        self._tickets = count()
        self._asked: dict[int, asyncio.Future[Outcome]] = {}
        self._preparing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen, on the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._read)

    async def ask(self, change: Change) -> Outcome:
        """Have all workers make a change; return once the supervisor says how it went."""
        ticket = next(self._tickets)
        self._asked[ticket] = self._loop.create_future()
        self._pipe.send(("ask", ticket, change))
        return await self._asked.pop(ticket)

    def _read(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._pipe.fileno())
            for asked in self._asked.values():
                asked.set_result(LOST)
            return
        match message:
            case ("prepare", number, change):
                self._preparing = self._loop.create_task(self._prepare(number, change))
            case ("commit", number, counts):
                self._reload.commit(counts)
                self._pipe.send(("done", number, Outcome("ok")))
            case ("abort",):
                self._reload.abort()
            case ("answer", ticket, outcome) if ticket in self._asked:
                self._asked[ticket].set_result(outcome)

    async def _prepare(self, number: int, change: Change) -> None:
        self._pipe.send(("done", number, await self._reload.prepare(change)))
