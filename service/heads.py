"""The heads that are served: those of all bundles, by name, and which answers a route without a name.

A snapshot never changes. What changes is which snapshot is served, so a request that holds a head keeps its session.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from zlib import crc32

from models.bundle import Bundle, read_bundle
from models.occlusion import EXPLAINED
from models.session import Session
from models.task import HeadSpec, Strict
from models.task_registry import ROUTES, AnyTask, RouteName, routes_of
from service.errors import NotFound, SettingsError, did_you_mean
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
    ways: Mapping[RouteName, AnyTask]
    """The routes on which it answers, its own task first."""
    defaults: Strict
    """The parameters of a request that gives none."""
    width: int
    """Logits of a position."""

    def with_defaults(self, route: RouteName, given: Strict | None) -> Strict:
        """Return the parameters of a request, with this head's defaults where it says nothing."""
        if given is None or route != self.spec.task:
            return given or self.defaults
        mine = self.spec.defaults.keys() - given.model_fields_set
        return given.model_copy(update={name: getattr(self.defaults, name) for name in mine}) if mine else given

    @property
    def bundle_name(self) -> str:
        """As in the header X-Bundle."""
        return f"{self.bundle.manifest.name}/{self.bundle.manifest.version}"


class Heads:
    """Heads in load order; the first of a task is its route's default."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.by_name: dict[str, Head] = {}
        self.defaults: dict[RouteName, Head] = {}
        for head in heads:
            self.by_name[head.name] = head
            for route in head.ways:
                self.defaults.setdefault(route, head)

    def find(self, route: RouteName, name: str | None) -> Head:
        """Return the head for a route; raise NotFound, which names those that exist."""
        head = self.by_name.get(name) if name is not None else self.defaults.get(route)
        if head is None:
            raise NotFound(self._missing(route, name), field="head")
        if route not in head.ways:
            right = f"/{head.spec.task}/{head.name}"
            raise NotFound(f"head {head.name!r} is not for /{route}; send this to {right}", field="head")
        return head

    def get(self, name: str) -> Head:
        """Return the head with a name; raise NotFound, which names those that exist."""
        if name not in self.by_name:
            raise NotFound(f"there is no head {name[:80]!r}; {_among(name, self.by_name)}", field="head")
        return self.by_name[name]

    def on(self, route: RouteName) -> list[Head]:
        """Return the heads that answer on a route."""
        return [head for head in self.by_name.values() if route in head.ways]

    def _missing(self, route: RouteName, name: str | None) -> str:
        known = [head.name for head in self.on(route)]
        if not known:
            return f"no head for /{route} is served; GET /heads lists those that are"
        assert name is not None, "a task with a head has a default"
        return f"there is no head {name[:80]!r} for /{route}; {_among(name, known)}"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A bundle that can answer."""

    source: Path
    """Its directory as it was given: a link may point elsewhere later."""
    bundle: Bundle
    session: Session
    heads: tuple[Head, ...]
    at: float
    """When, in seconds since 1970."""

    @classmethod
    def of(cls, source: Path, bundle: Bundle, session: Session) -> Self:
        """Build the heads of a bundle."""
        return cls(
            source, bundle, session, tuple(_head(name, bundle, session) for name in bundle.manifest.heads), time.time()
        )

    @property
    def name(self) -> str:
        """As in the header X-Bundle."""
        return f"{self.bundle.manifest.name}/{self.version}"

    @property
    def version(self) -> str:
        """The bundle's."""
        return self.bundle.manifest.version


class Snapshot(Heads):
    """All that is loaded at one moment.

    `canary`: gets a part of the traffic of the heads that have its names. `shadow`: answers nobody, but is compared.
    """

    def __init__(self, bundles: Sequence[Loaded], canary: Loaded | None = None, shadow: Loaded | None = None) -> None:
        super().__init__([head for bundle in bundles for head in bundle.heads])
        self.bundles, self.canary, self.shadow = tuple(bundles), canary, shadow
        self.loaded = (*self.bundles, *(extra for extra in (canary, shadow) if extra))
        self._pinned = {loaded.name: Heads(loaded.heads) for loaded in reversed(self.loaded)}
        self._trial = Heads([self._tried(head) for head in self.by_name.values()])

    def pinned(self, name: str) -> Heads:
        """Return the heads of one bundle, by NAME/VERSION; raise NotFound, which names those that are loaded."""
        if name not in self._pinned:
            known = ", ".join(loaded.name for loaded in self.loaded)
            raise NotFound(f"bundle {name[:140]!r} is not loaded; there are {known}", field="X-Bundle")
        return self._pinned[name]

    def part(self, key: str, percent: int) -> Heads:
        """Return the heads for a request: the same `key` always gets the same, and `percent` of keys the canary's."""
        return self._trial if self.canary and crc32(key.encode("latin-1")) % 100 < percent else self

    def bundle_of(self, name: str) -> Loaded | None:
        """Return the bundle that has a name, or a head of that name."""
        named = [loaded for loaded in self.bundles if loaded.bundle.manifest.name == name]
        holders = [loaded for loaded in self.bundles if name in loaded.bundle.manifest.heads]
        return next(iter(named + holders), None)

    def at(self, source: Path) -> Loaded | None:
        """Return the bundle that was loaded from a directory."""
        return next((loaded for loaded in self.loaded if loaded.source == source), None)

    def replace(self, old: Loaded | None, new: Loaded | None) -> "Snapshot":
        """Return a snapshot with another bundle in a place, without it, or with one more."""

        def place(found: Loaded | None) -> Loaded | None:
            return new if found is old else found

        bundles = [kept for found in self.bundles if (kept := place(found))]
        canary = self.canary and place(self.canary)
        shadow = self.shadow and place(self.shadow)
        return Snapshot(bundles if old else [*bundles, *([new] if new else [])], canary, shadow)

    def _tried(self, head: Head) -> Head:
        found = next((other for other in (self.canary.heads if self.canary else ()) if other.name == head.name), head)
        if found.spec.task != head.spec.task:
            raise SettingsError(
                f"head {head.name!r} is for /{head.spec.task} in bundle {head.bundle.directory}, but for "
                f"/{found.spec.task} in the canary {found.bundle.directory}; rename it in one of them"
            )
        return found


def load_heads(settings: Settings, progress: Callable[[str], None], opened: "Opener | None" = None) -> Snapshot:
    """Read, verify and warm every bundle; raise BundleError or SettingsError. Takes seconds: not on the event loop.

    `opened` opens a bundle; by default `open_session` does.
    """
    loaded, bundles, directories = list[Loaded](), list[Bundle](), settings.directories
    for place, directory in _numbered(directories):
        progress(f"reading {place}")
        bundles.append(read_bundle(directory))
    check_renames(settings.rename, bundles, settings.model_control == "explicit")
    bundles = [renamed(bundle, settings.rename) for bundle in bundles]
    check_names(bundles[: len(settings.bundles)])
    for (place, directory), bundle in zip(_numbered(directories), bundles, strict=True):
        progress(f"warming {place}")
        session = (opened or open_session)(bundle, settings)
        session.warm_up()
        if (gain := session.gain(session.max_length)) > 1:
            logger.info("a long text runs on all cores while nothing else runs: %.1f times as fast", gain)
        loaded.append(Loaded.of(directory, bundle, session))
    shadow = loaded.pop() if settings.shadow else None
    canary = loaded.pop() if settings.canary else None
    return Snapshot(loaded, canary, shadow)


def _numbered(directories: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return each directory with its place among all, for people."""
    count = len(directories)
    return [(f"bundle {number} of {count}, {path}", path) for number, path in enumerate(directories, start=1)]


def renamed(bundle: Bundle, names: Mapping[str, str]) -> Bundle:
    """Return a bundle whose heads have other names, given by "BUNDLE:HEAD"; raise SettingsError if two become equal."""
    manifest = bundle.manifest
    owners = (str(bundle.directory), manifest.name)
    chosen = {head: _new_name(head, owners, names) for head in manifest.heads}
    twice = next((name for name, count in Counter(chosen.values()).items() if count > 1), None)
    if twice:
        raise SettingsError(
            f"--rename names two heads of bundle {manifest.name} {twice!r}; choose another name for one"
        )
    heads = {chosen[head]: entry for head, entry in manifest.heads.items()}
    return replace(bundle, manifest=manifest.model_copy(update={"heads": heads}))


def _new_name(head: str, owners: Sequence[str], names: Mapping[str, str]) -> str:
    return next((names[key] for owner in owners if (key := f"{owner}:{head}") in names), head)


def check_renames(names: Mapping[str, str], bundles: Sequence[Bundle], more: bool = False) -> None:
    """Raise SettingsError where a rename names a missing head; with `more` bundles to come, one may have it."""
    for key in names:
        owner, _, head = key.rpartition(":")
        found = [bundle for bundle in bundles if owner in (bundle.manifest.name, str(bundle.directory))]
        if (not found and not more) or (found and all(head not in bundle.manifest.heads for bundle in found)):
            known = [f"{bundle.manifest.name}:{name}" for bundle in bundles for name in bundle.manifest.heads]
            raise SettingsError(f"there is no head {key} to rename, expected one of {', '.join(known)}; correct it")


def open_session(bundle: Bundle, settings: Settings, like: Session | None = None, device: int = 0) -> Session:
    """Open the graphs of a bundle; where `like` gained nothing from more threads, this takes no memory for them."""
    wide = settings.threads * settings.lane_count if like is None or like.is_wide else settings.threads
    return Session(
        bundle,
        precision=settings.precision,
        provider=settings.provider,
        threads=settings.threads,
        wide_threads=wide,
        device=device,
        memory=settings.gpu_memory << 20,
    )


Opener = Callable[[Bundle, Settings], Session]


def describe(head: Head, heads: Heads, settings: Settings) -> dict[str, Any]:
    """Return what GET /heads tells of a head."""
    manifest = head.bundle.manifest
    entry = manifest.heads[head.name]
    task = head.spec.task
    return {
        "name": head.name,
        "task": task,
        "route": f"/{task}/{head.name}",
        "routes": [f"/{route}/{head.name}" for route in [*head.ways, *(["explain"] if task in EXPLAINED else [])]],
        "default": heads.defaults[task] is head,
        "labels": head.spec.labels,
        "problem_type": head.spec.problem_type,
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
    longest, width = bundle.manifest.encoder.max_length, spec.width(bundle.manifest.encoder.vocab_size)
    ways = {route: ROUTES[route](bundle.tokenizer, spec, longest) for route in routes_of(spec)}
    task = ways[spec.task]
    return Head(name, spec, task, bundle, session, ways, task.parse_parameters({}), width)


def check_names(bundles: Sequence[Bundle]) -> None:
    """Raise SettingsError, which says what to type, if heads of two bundles have one name."""
    owners: dict[str, Bundle] = {}
    for bundle in bundles:
        for head in bundle.manifest.heads:
            if head in owners:
                raise SettingsError(_collision(head, owners[head], bundle))
        owners |= dict.fromkeys(bundle.manifest.heads, bundle)


def _collision(head: str, first: Bundle, second: Bundle) -> str:
    same = first.manifest.name == second.manifest.name
    owner = str(second.directory) if same else second.manifest.name
    name = Path(second.manifest.heads[head].file).stem  # in the bundle, if it is renamed already
    new = f"{second.directory.name if same else owner}-{name}"[:64]
    return (
        f"head {head!r} is in bundle {first.directory} and in {second.directory}; start the service with "
        f'--rename {owner}:{name}={new}, or load this bundle with "rename": {{"{name}": "{new}"}}'
    )


def _among(name: str, known: Collection[str]) -> str:
    """List the names that are known, and ask for the one that was meant."""
    return "; ".join(filter(None, [f"there are {', '.join(known)}", did_you_mean(name, known)]))
