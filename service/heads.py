"""The heads that are served, by name, and the default head of each route.

A snapshot is immutable. A change of bundles replaces the snapshot, so a request keeps the session of its head.
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
    """One head, with everything that is needed to answer."""

    name: str
    spec: HeadSpec
    task: AnyTask
    bundle: Bundle
    session: Session
    ways: Mapping[RouteName, AnyTask]
    """The routes on which it answers, and the task that each runs; its own task comes first."""
    defaults: Strict
    """Parameters for a request that gives none."""
    width: int
    """Number of logits per position."""

    def with_defaults(self, route: RouteName, given: Strict | None) -> Strict:
        """Return the parameters of a request, completed with this head's defaults."""
        if given is None or route != self.spec.task:
            return given or self.defaults
        mine = self.spec.defaults.keys() - given.model_fields_set
        return given.model_copy(update={name: getattr(self.defaults, name) for name in mine}) if mine else given

    @property
    def bundle_name(self) -> str:
        """NAME/VERSION, as in the header X-Bundle."""
        return f"{self.bundle.manifest.name}/{self.bundle.manifest.version}"


class Heads:
    """Heads in load order; the first head of a route is its default."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.by_name: dict[str, Head] = {}
        self.defaults: dict[RouteName, Head] = {}
        for head in heads:
            self.by_name[head.name] = head
            for route in head.ways:
                self.defaults.setdefault(route, head)

    def find(self, route: RouteName, name: str | None) -> Head:
        """Return the named head, or the default one, for a route; raise NotFound, which names the existing heads."""
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
    """A loaded bundle, ready to answer."""

    source: Path
    """Its directory as it was given, not resolved: a link may point elsewhere later."""
    bundle: Bundle
    session: Session
    heads: tuple[Head, ...]
    at: float
    """When it was loaded, in Unix seconds."""

    @classmethod
    def of(cls, source: Path, bundle: Bundle, session: Session) -> Self:
        """Build the heads of a bundle."""
        return cls(
            source, bundle, session, tuple(_head(name, bundle, session) for name in bundle.manifest.heads), time.time()
        )

    @property
    def name(self) -> str:
        """NAME/VERSION, as in the header X-Bundle."""
        return f"{self.bundle.manifest.name}/{self.version}"

    @property
    def version(self) -> str:
        """The version of the bundle."""
        return self.bundle.manifest.version


class Snapshot(Heads):
    """All bundles that are loaded at one moment.

    `canary`: answers a share of the requests for heads of the same names. `shadow`: computes answers only to compare.
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
        """Return the heads for a request: for `percent` of keys the canary's, and always the same for the same key."""
        return self._trial if self.canary and crc32(key.encode("latin-1")) % 100 < percent else self

    def bundle_of(self, name: str) -> Loaded | None:
        """Return the bundle of this name, otherwise the first one with a head of this name; None if there is none."""
        named = [loaded for loaded in self.bundles if loaded.bundle.manifest.name == name]
        holders = [loaded for loaded in self.bundles if name in loaded.bundle.manifest.heads]
        return next(iter(named + holders), None)

    def at(self, source: Path) -> Loaded | None:
        """Return the bundle that was loaded from a directory."""
        return next((loaded for loaded in self.loaded if loaded.source == source), None)

    def replace(self, old: Loaded | None, new: Loaded | None) -> "Snapshot":
        """Return a snapshot with `new` in place of `old`; without `old` if `new` is None, or with `new` added."""

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
    """Read, verify and warm up all bundles; takes seconds, so do not call it on the event loop.

    `progress` is called with a message for each step, and `opened` opens a bundle (default: `open_session`).
    Raises BundleError or SettingsError.
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
    """Return each directory with a description such as "bundle 1 of 2, models/starter"."""
    count = len(directories)
    return [(f"bundle {number} of {count}, {path}", path) for number, path in enumerate(directories, start=1)]


def renamed(bundle: Bundle, names: Mapping[str, str]) -> Bundle:
    """Return a bundle with renamed heads; raise SettingsError if two heads get the same name.

    `names` maps "BUNDLE:HEAD" to the new name.
    """
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
    """Raise SettingsError if a renamed head is missing; with `more`, it may be in a bundle that is loaded later."""
    for key in names:
        owner, _, head = key.rpartition(":")
        found = [bundle for bundle in bundles if owner in (bundle.manifest.name, str(bundle.directory))]
        if (not found and not more) or (found and all(head not in bundle.manifest.heads for bundle in found)):
            known = [f"{bundle.manifest.name}:{name}" for bundle in bundles for name in bundle.manifest.heads]
            raise SettingsError(f"there is no head {key} to rename, expected one of {', '.join(known)}; correct it")


def open_session(bundle: Bundle, settings: Settings, like: Session | None = None, device: int = 0) -> Session:
    """Open the graphs of a bundle.

    If `like`, the session that it replaces, did not gain from more threads, no wide encoder is opened.
    """
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
    """Return the description of a head for GET /heads."""
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
    """Raise SettingsError if heads of two bundles have the same name; the message says how to rename one."""
    owners: dict[str, Bundle] = {}
    for bundle in bundles:
        for head in bundle.manifest.heads:
            if head in owners:
                raise SettingsError(_collision(head, owners[head], bundle))
        owners |= dict.fromkeys(bundle.manifest.heads, bundle)


def _collision(head: str, first: Bundle, second: Bundle) -> str:
    same = first.manifest.name == second.manifest.name
    owner = str(second.directory) if same else second.manifest.name
    name = Path(second.manifest.heads[head].file).stem  # the name in the bundle, as it may be renamed already
    new = f"{second.directory.name if same else owner}-{name}"[:64]
    return (
        f"head {head!r} is in bundle {first.directory} and in {second.directory}; start the service with "
        f'--rename {owner}:{name}={new}, or load this bundle with "rename": {{"{name}": "{new}"}}'
    )


def _among(name: str, known: Collection[str]) -> str:
    """List the known names, and suggest the most similar one."""
    return "; ".join(filter(None, [f"there are {', '.join(known)}", did_you_mean(name, known)]))
