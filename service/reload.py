"""Changes of bundles while the service runs: a new bundle is loaded beside the old one, checked, then swapped in.

A change has two steps. `prepare` does everything that takes time or can fail. `commit` is one assignment on the event
loop, so every request sees either the old bundles or the new ones. Requests in flight keep the session that they began
with; its memory is released after the last of them.
"""

import asyncio
import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from models.bundle import Bundle, read_bundle
from models.errors import BertheadsError, BundleError
from models.manifest import MANIFEST
from models.session import Session
from service.heads import Loaded, Snapshot, check_names, check_renames, renamed

if TYPE_CHECKING:
    from service.control import Control
    from service.lifecycle import Service

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

LOOKING, OPENING = 10, 4
"""Niceness of the threads that load. ONNX Runtime's threads keep the niceness of the thread that opened the graph, so
OPENING equals that of lanes."""
TRIM_AFTER = 1.0
"""Seconds from the end of a session until its memory is returned to the system."""
MEMORY_LIMIT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Change:
    """One bundle replaces another, is added (`old` is None), or is removed (`new` is None)."""

    old: Path | None
    """The directory as it was given when the bundle was loaded."""
    new: Path | None
    expected: str = ""
    """NAME/VERSION that the new bundle must have; empty: any."""
    force: bool = False
    """Whether heads may disappear or change their task."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """New names of heads by "BUNDLE:HEAD", from now on; added to those in the settings."""


@dataclass(frozen=True)
class Outcome:
    """The result of a change. `busy`: another change is in progress."""

    result: Literal["ok", "refused", "busy"]
    sentence: str = ""
    version: str = ""
    previous: str = ""


BUSY = Outcome("busy", "another bundle is being loaded; wait until that has ended, then try again")


class Reload:
    """Changes the served bundles: in this process, or through the supervisor in all workers."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._candidate: Snapshot | None = None
        self._settings = service.settings
        """The settings after the change that is being prepared."""
        self._turn = asyncio.Lock()
        """Held during a change."""
        self._asked = False
        """Whether a request waits for its change; others then get BUSY."""
        self._all: asyncio.Task[None] | None = None
        self._looker, self._opener = niced(LOOKING), niced(OPENING)
        self.control: Control | None = None
        """The connection to the supervisor, if there is one."""
        self.retired: dict[str, Path] = {}
        """Directories of bundles that are no longer loaded, by name."""

    async def change(self, change: Change) -> Outcome:
        """Make a change that a request asks for. When this returns, either all workers have made it or none has.

        It waits for a change that no request asked for, such as that of a signal.
        """
        if self.control:
            return await self.control.ask(change)
        if self._asked:
            return BUSY
        self._asked = True
        try:
            async with self._turn:
                return await self._change(change)
        finally:
            self._asked = False

    def start_all(self) -> None:
        """Start to load every bundle again from its directory."""
        self._all = asyncio.create_task(self._change_all())

    def stop(self) -> None:
        """Start no more loads."""
        for executor in (self._looker, self._opener):
            executor.shutdown(wait=False, cancel_futures=True)

    async def watch(self) -> None:
        """Until cancelled, load bundles that were replaced on disk; with several workers, the supervisor does so."""
        look = Watch(self._service.settings.directories)
        while self._service.settings.watch and not self.control:
            await asyncio.sleep(self._service.settings.watch)
            sources = [loaded.source for loaded in self._service.heads.loaded]
            for source in await asyncio.to_thread(look.changed, sources):
                async with self._turn:  # a replaced bundle is found only once, so wait for a change in progress
                    await self._change(Change(source, source))

    async def _change_all(self) -> None:
        await self._service.loading()
        async with self._turn:
            for loaded in self._service.heads.loaded:
                await self._change(Change(loaded.source, loaded.source))

    async def _change(self, change: Change) -> Outcome:
        """Make a change in this process."""
        outcome = await self.prepare(change)
        if outcome.result == "ok":
            self.commit()
        return outcome

    # ---- the two steps, in one process ----

    async def prepare(self, change: Change) -> Outcome:
        """Load and check the new bundle; if the outcome is ok, call `commit` or `abort` next."""
        await self._service.loading()
        snapshot = self._service.heads
        old = snapshot.at(change.old) if change.old else None
        self._settings = self._service.settings.with_names(change.rename)
        try:
            if change.old and not old:
                raise BundleError(f"no bundle was loaded from {change.old}; GET /heads lists what is served")
            new = await self._load(change, old or snapshot.bundles[0]) if change.new else None
            _check_heads(old, new, change.force)
            self._candidate = snapshot.replace(old, new)
        except BertheadsError as error:
            return self._refuse(change, old, str(error))
        except Exception as error:
            logger.exception("loading failed")
            return self._refuse(change, old, f"loading failed: {error}")
        return Outcome("ok", "", new.version if new else "", old.version if old else "")

    def commit(self, count: bool = True) -> None:
        """Serve what was prepared. `count`: whether to count it in the metrics, which only one worker should do."""
        before, after, self._candidate = self._service.heads, self._candidate, None
        assert after, "nothing was prepared"
        self._service.settings = self._settings
        gone = [loaded for loaded in before.loaded if loaded not in after.loaded]
        come = [loaded for loaded in after.loaded if loaded not in before.loaded]
        self._service.serve(after)
        names = [", ".join(loaded.name for loaded in loadeds) or "nothing" for loadeds in (come, gone)]
        logger.info("now serving %s in place of %s", *names)
        for loaded in gone:
            self.retired[loaded.bundle.manifest.name] = loaded.source
        for loaded in come:
            self.retired.pop(loaded.bundle.manifest.name, None)
        if count:
            self._service.metrics.reloads.labels((come or gone)[0].bundle.manifest.name, "ok").inc()

    def abort(self) -> None:
        """Drop what was prepared."""
        self._candidate = None

    async def _load(self, change: Change, like: Loaded) -> Loaded:
        assert change.new
        settings = self._settings
        bundle = await run_on(self._looker, read_bundle, change.new)
        _check_name(bundle, change.expected)
        check_renames(change.rename, [bundle])
        bundle = renamed(bundle, settings.rename)
        snapshot = self._service.heads
        if change.old in (None, *(loaded.source for loaded in snapshot.bundles)):  # neither canary nor shadow
            others = [loaded.bundle for loaded in snapshot.bundles if loaded.source != change.old]
            check_names([*others, bundle])  # before the slow part; the new bundle is last, so it is the one to rename
        session = await run_on(self._opener, self._service.open_session, bundle, settings, like.session)
        give_back_after(session)
        await run_on(self._looker, session.warm_up, like.session)
        await self._service.warm_lanes(session)
        return Loaded.of(change.new, bundle, session)

    def _refuse(self, change: Change, old: Loaded | None, sentence: str) -> Outcome:
        name = old.bundle.manifest.name if old else change.expected.partition("/")[0]
        logger.error("bundle %s is refused; the old one is still served: %s", change.new, sentence)
        self._service.metrics.reloads.labels(name, "refused").inc()
        return Outcome("refused", sentence)


class Watch:
    """Finds bundles that were replaced on disk, by other files or by a link that now points elsewhere.

    All files of a bundle are compared, because a copy in progress may have bundle.json before the other files.
    """

    def __init__(self, sources: list[Path]) -> None:
        self._served = {source: _mark(source) for source in sources}
        self._seen = dict(self._served)

    def changed(self, sources: list[Path]) -> list[Path]:
        """Return the bundles that have changed since they were last returned, but not since the previous call."""
        found = []
        for source in sources:
            mark, before = _mark(source), self._seen.get(source)
            self._seen[source] = mark
            if mark and mark == before and mark != self._served.setdefault(source, mark):
                self._served[source] = mark
                found.append(source)
        return found


def give_back_after(session: Session) -> None:
    """Return the memory of a session to the system after its last use."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        with suppress(RuntimeError):  # the loop may have ended too
            loop.call_soon_threadsafe(loop.call_later, TRIM_AFTER, trim)

    weakref.finalize(session, ended).atexit = False


def trim() -> None:
    """Return memory to the system that the allocator keeps although it is free."""
    with suppress(AttributeError):  # not a GNU system
        ctypes.CDLL(None).malloc_trim(0)


def _mark(source: Path) -> tuple[object, ...] | None:
    """Return a value that changes whenever a bundle's files change; None while there is no bundle."""
    try:
        files = {file: file.stat() for file in (source / MANIFEST, *sorted(source.rglob("*")))}
    except OSError:
        return None
    return source.resolve(), *((file, at.st_ino, at.st_mtime_ns, at.st_size) for file, at in files.items())


def niced(niceness: int) -> ThreadPoolExecutor:
    """Return an executor with one thread of this niceness; the thread starts with its first work."""

    def lower() -> None:
        with suppress(OSError):  # on Linux each thread has its own niceness
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)

    return ThreadPoolExecutor(1, thread_name_prefix="load", initializer=lower)


async def run_on(executor: ThreadPoolExecutor, work: Callable[..., Result], *arguments: Any) -> Result:
    """Run work on an executor."""
    return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)


def _check_name(bundle: Bundle, expected: str) -> None:
    found = f"{bundle.manifest.name}/{bundle.manifest.version}"
    if expected and found != expected:
        raise BundleError(f"{bundle.directory} is bundle {found}, expected {expected}; move it to its place")


def _check_heads(old: Loaded | None, new: Loaded | None, force: bool) -> None:
    """Raise BundleError if a head is missing or has another task in the new bundle, unless `force` is set."""
    if not old or not new or force:
        return
    tasks = {head.name: head.spec.task for head in new.heads}
    for head in old.heads:
        if tasks.get(head.name) != head.spec.task:
            found = f"is for /{tasks[head.name]}" if head.name in tasks else "is missing"
            raise BundleError(
                f"head {head.name!r} {found} in {new.name}, expected one for /{head.spec.task} as in {old.name}; "
                'add it, or send "force": true'
            )


def check_memory(bundle: Bundle) -> None:
    """Raise BundleError if two copies of the largest graph and all constants exceed the container's free memory."""
    files = [file for file in bundle.manifest.sha256 if file.endswith(".bin")]
    encoder = max((bundle.directory / file).stat().st_size for file in bundle.manifest.encoder.files.values())
    needed = 2 * (encoder + sum((bundle.directory / file).stat().st_size for file in files))
    left = _memory_left()
    if left is not None and needed > left:
        raise BundleError(
            f"{bundle.directory} needs about {needed >> 20} MiB beside what is served, but {left >> 20} MiB are left "
            "of the container's limit; raise the limit"
        )


def _memory_left() -> int | None:
    """Return the bytes that the control group of this process may still use; None without a limit."""
    try:
        limit = (MEMORY_LIMIT / "memory.max").read_text().strip()
        used = int((MEMORY_LIMIT / "memory.current").read_text())
        values = dict(line.split() for line in (MEMORY_LIMIT / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - used + int(values.get("inactive_file", 0))
