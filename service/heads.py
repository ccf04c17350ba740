"""The heads that are served: those of all bundles, by name, and which answers a route without a name."""

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from models.bundle import Bundle, read_bundle
from models.session import Session
from models.task import HeadSpec, Strict, TaskName
from models.tasks import TASKS, AnyTask
from service.errors import NotFound, SettingsError
from service.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """One head, with all that answering takes."""

    name: str
    spec: HeadSpec
    task: AnyTask
    bundle: Bundle
    session: Session
    defaults: Strict
    """The parameters of a request that gives none."""
    width: int
    """Logits of a position."""

    @property
    def bundle_name(self) -> str:
        """As in the header X-Bundle."""
        return f"{self.bundle.manifest.name}/{self.bundle.manifest.version}"


class Heads:
    """Heads in load order; the first of a task is its route's default."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.by_name: dict[str, Head] = {}
        self.defaults: dict[TaskName, Head] = {}
        for head in heads:
            other = self.by_name.get(head.name)
            if other:
                raise SettingsError(
                    f"head {head.name!r} is in bundle {other.bundle.directory} and in {head.bundle.directory}; "
                    "rename it in one of them, or serve them apart"
                )
            self.by_name[head.name] = head
            self.defaults.setdefault(head.spec.task, head)

    def find(self, task: TaskName, name: str | None) -> Head:
        """Return the head for a route; raise NotFound, which names those that exist."""
        head = self.by_name.get(name) if name is not None else self.defaults.get(task)
        if head is None:
            raise NotFound(self._missing(task, name), field="head")
        if head.spec.task != task:
            right = f"/{head.spec.task}/{head.name}"
            raise NotFound(f"head {head.name!r} is not for /{task}; send this to {right}", field="head")
        return head

    def get(self, name: str) -> Head:
        """Return the head with a name; raise NotFound, which names those that exist."""
        if name not in self.by_name:
            known = ", ".join(self.by_name)
            raise NotFound(
                f"there is no head {name[:80]!r}; there are {known}{_nearest(name, list(self.by_name))}", field="head"
            )
        return self.by_name[name]

    def _missing(self, task: TaskName, name: str | None) -> str:
        known = [head.name for head in self.by_name.values() if head.spec.task == task]
        if not known:
            return f"no head for /{task} is served; GET /heads lists those that are"
        assert name is not None, "a task with a head has a default"
        return f"there is no head {name[:80]!r} for /{task}; there are {', '.join(known)}{_nearest(name, known)}"


def load_heads(settings: Settings, progress: Callable[[str], None]) -> Heads:
    """Read, verify and warm every bundle; raise BundleError or SettingsError. Takes seconds: not on the event loop."""
    heads: list[Head] = []
    for number, directory in enumerate(settings.bundles, start=1):
        place = f"bundle {number} of {len(settings.bundles)}, {directory}"
        progress(f"reading {place}")
        bundle = read_bundle(directory)
        session = Session(
            bundle,
            precision=settings.precision,
            provider=settings.provider,
            threads=settings.threads,
            wide_threads=settings.threads * settings.lane_count,
        )
        heads += [_head(name, bundle, session) for name in bundle.manifest.heads]
        progress(f"warming {place}")
        session.warm_up()
        if (gain := session.gain(session.max_length)) > 1:
            logger.info("a long text that is alone runs on all cores, %.1f times as fast", gain)
    return Heads(heads)


def describe(head: Head, heads: Heads, settings: Settings) -> dict[str, Any]:
    """Return what GET /heads tells of a head."""
    manifest = head.bundle.manifest
    entry = manifest.heads[head.name]
    task = head.spec.task
    return {
        "name": head.name,
        "task": task,
        "route": f"/{task}/{head.name}",
        "default": heads.defaults[task] is head,
        "labels": head.spec.labels,
        "parameters": head.defaults.model_dump(mode="json"),
        "limits": {
            "max_length": manifest.encoder.max_length,
            "max_characters": settings.max_characters,
            "max_items": settings.max_items,
        },
        "metrics": entry.metrics,
        "bundle": {"name": manifest.name, "version": manifest.version},
        "precision": head.session.precision,
        "provider": head.session.provider,
        "sha256": head.bundle.digest,
    }


def _head(name: str, bundle: Bundle, session: Session) -> Head:
    spec = bundle.manifest.heads[name].spec
    task = TASKS[spec.task](bundle.tokenizer, spec, bundle.manifest.encoder.max_length)
    width = spec.width(bundle.manifest.encoder.vocab_size)
    return Head(name, spec, task, bundle, session, task.parse_parameters({}), width)


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name[:80], known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
