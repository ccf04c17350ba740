"""A worker's end of the pipe to its supervisor. A change of bundles takes effect in all workers or in none."""

import asyncio
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from service.reload import Change, Outcome, Reload

LOST = Outcome("refused", "the supervisor ended; nothing was changed")


class Control:
    """Asks the supervisor for changes, and carries out the supervisor's commands."""

    def __init__(self, pipe: "Connection[Any, Any]", reload: Reload) -> None:
        self._pipe = pipe
        self._reload = reload
        self._tickets = count()
        self._asked: dict[int, asyncio.Future[Outcome]] = {}
        self._preparing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen for messages, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._read)

    async def ask(self, change: Change) -> Outcome:
        """Ask the supervisor to make a change in all workers; return its outcome."""
        ticket = next(self._tickets)
        answer: asyncio.Future[Outcome] = self._loop.create_future()
        self._asked[ticket] = answer
        self._pipe.send(("ask", ticket, change))
        try:
            return await answer
        finally:
            del self._asked[ticket]

    def ask_for_all(self) -> None:
        """Ask the supervisor to have all workers load every bundle again from its directory."""
        self._pipe.send(("all", 0))

    def _read(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._pipe.fileno())
            for ticket in self._asked:
                self._answer(ticket, LOST)
            return
        match message:
            case ("prepare", number, change):
                self._preparing = self._loop.create_task(self._prepare(number, change))
            case ("commit", number, counts):
                self._reload.commit(counts)
                self._pipe.send(("done", number, Outcome("ok")))
            case ("abort",):
                self._reload.abort()
            case ("answer", ticket, outcome):
                self._answer(ticket, outcome)

    def _answer(self, ticket: int, outcome: Outcome) -> None:
        asked = self._asked.get(ticket)
        if asked and not asked.done():  # the request may have been cut off in the meantime
            asked.set_result(outcome)

    async def _prepare(self, number: int, change: Change) -> None:
        self._pipe.send(("done", number, await self._reload.prepare(change)))
