"""Settings of the service: environment variables BERTHEADS_*, and flags of the same names, which take precedence.

BERTHEADS_BUNDLES=models/starter,/bundles/legal python -m service --port 9000 --lanes 4
"""

import difflib
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

import models
from models.cgroup import usable_cores
from models.manifest import NAME
from service.errors import SettingsError
from service.keys import CONTROL, read_keys

PREFIX = "BERTHEADS_"
STARTER = Path(models.__file__).parent / "starter"
CORES_PER_WORKER = 4
"""One event loop can feed about this many lanes. With 1, 2, 4 and 8 lanes of 20,000 tokens per second, it answered 1.0,
1.8, 2.6 and 2.4 times the short texts of one lane (python -m tests.benchmarks.cores --speed 20000)."""
FRONTS_PER_GPU = 8
"""A front can send a GPU about 450 questions per second; BERT-large on an H100 computes a few thousand per second."""
HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?")
DEFAULT_PORTS = {("http", ":80"), ("https", ":443")}
RENAMED = re.compile(rf"(.+):({NAME[1:-1]})=({NAME[1:-1]})")
"""BUNDLE:HEAD=NEW."""
SERVICE_LINK = re.compile(r"BERTHEADS_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?)")
"""Variables that Kubernetes sets in the pods of a namespace with a Service named bertheads, as
BERTHEADS_PORT=tcp://10.0.0.1:80."""


class Settings(BaseSettings):
    """The settings; each description is also the help text of the flag."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        (STARTER,), min_length=1, description="directories of the bundles to serve, separated by commas"
    )
    rename: Annotated[dict[str, str], NoDecode] = Field(
        {},
        description="other names for heads, as BUNDLE:HEAD=NEW, separated by commas; BUNDLE is the name of a bundle or "
        "its directory",
    )
    model_name: str | None = Field(
        None, pattern="^[^/]+$", description="another name for the first head on /v1 and /v2, as KServe sets it"
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 for any free port")
    workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="processes that share the port; on CPU each has its own lanes, queue and copy of the weights in "
        "memory; on GPUs they share one engine process per device; "
        f"0: one per {CORES_PER_WORKER} usable cores, or one if lanes is set; with GPUs, one per core except one core "
        f"per GPU, at most {FRONTS_PER_GPU} per GPU",
    )
    lanes: int = Field(
        0, ge=0, le=1024, description="batches that run at once in an engine; 0: one per usable core, two per GPU"
    )
    threads: int = Field(1, ge=1, le=1024, description="ONNX Runtime threads per lane")
    wide_encoder: Literal["auto", "on", "off"] = Field(
        "auto",
        description="run a long text on all cores while nothing else runs, with a second copy of the encoder; "
        "this needs memory for a second copy of the weights; auto: only with int8",
    )
    batch_tokens: int = Field(
        0, ge=0, description="maximum tokens per batch, padding included; 0: 384, or 16384 on a GPU"
    )
    max_queued_tokens: int = Field(
        131_072, ge=512, description="maximum tokens that wait in a worker; requests beyond it get 429"
    )
    max_queue_seconds: float = Field(
        1.5,
        gt=0,
        le=3600,
        description="maximum expected wait of a short request, in seconds; above it, requests get 429",
    )
    deadline: float = Field(30.0, gt=0, le=3600, description="maximum seconds per request; slower ones get 504")
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="maximum bytes of a request body; larger ones get 413")
    max_characters: int = Field(100_000, ge=1, description="maximum characters of a text; longer ones get 422")
    max_items: int = Field(256, ge=1, description="maximum inputs in a list; longer lists get 422")
    safe_labels: Annotated[tuple[str, ...], NoDecode] = Field(
        ("safe", "benign", "legit", "neutral", "normal", "clean", "ok", "label_0"),
        description="labels that mean a guard found nothing, separated by commas; case does not matter",
    )
    max_connections: int = Field(
        0, ge=0, description="maximum connections per worker; more get 503; 0: what the limit of open files allows"
    )
    api_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="key that clients send as Authorization: Bearer KEY; "
        "prefer the variable, because other users of the machine can read flags",
    )
    api_keys_file: Path | None = Field(
        None, description="file of keys, one line each: NAME KEY [WEIGHT]; read again when it changes"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins of web pages that may call the service, separated by commas; * for any"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="names that requests may have in Host, separated by commas, besides addresses and local names; "
        "* for any, which is the default if a key is set or if host is not a loopback address",
    )
    protect_metrics: bool = Field(False, description="require the key on /metrics too")
    precision: Literal["int8", "fp16", "fp32"] | None = Field(
        None, description="encoder precision; by default the best one that a bundle has for the provider"
    )
    provider: Literal["cpu", "cuda"] = Field("cpu", description="hardware that ONNX Runtime runs on")
    device: Annotated[tuple[int, ...], NoDecode] = Field(
        (0,), min_length=1, description="numbers of the GPUs that compute, separated by commas; each has its own engine"
    )
    gpu_memory: int = Field(0, ge=0, le=1 << 20, description="maximum MiB of GPU memory per graph; 0: no limit")
    lane_timeout: float = Field(
        120.0,
        gt=0,
        description="maximum seconds per batch; after that, its lane counts as dead and the worker as not live",
    )
    model_control: Literal["none", "explicit"] = Field(
        "none", description="explicit: POST /v2/repository can load and unload bundles; requires an api_key"
    )
    bundle_root: Path | None = Field(
        None, description="directory of bundles that may be loaded while the service runs, as NAME/VERSION"
    )
    watch: float = Field(
        0.0, ge=0, le=86_400, description="seconds between checks for a replaced bundle on disk; 0: never"
    )
    canary: Path | None = Field(
        None, description="directory of a bundle that answers part of the requests for heads of the same names"
    )
    canary_percent: int = Field(10, ge=0, le=100, description="percentage of requests that the canary answers")
    canary_by: str = Field(
        "",
        description="header whose value decides which requests the canary answers; by default chosen at random",
    )
    shadow: Path | None = Field(
        None, description="directory of a bundle that also answers requests, only to count differences"
    )
    drain_delay: float = Field(
        0.0, ge=0, description="seconds between SIGTERM and closing the port; meanwhile not ready, but still answering"
    )
    drain_timeout: int = Field(
        30, ge=1, description="maximum seconds for running requests to finish after the port is closed"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    sample_file: Path | None = Field(
        None, description="file to which inputs of answered requests are appended as JSON lines, for labelling"
    )
    sample_percent: float = Field(
        1.0, gt=0, le=100, description="percentage of inputs that sample_file gets, chosen at random"
    )
    sample_max_bytes: int = Field(
        64 * 2**20, ge=1024, description="maximum bytes of sample_file; when it is full, no more inputs are stored"
    )
    log_format: Literal["text", "json"] = Field("text", description="text for people, JSON lines for machines")

    @field_validator("bundles", "cors_origins", "allowed_hosts", "safe_labels", "device", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("rename", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        """Parse BUNDLE:HEAD=NEW, separated by commas; return new names by "BUNDLE:HEAD"."""
        if not isinstance(value, str):
            return value
        found: dict[str, str] = {}
        for part in filter(None, map(str.strip, value.split(","))):
            parts = RENAMED.fullmatch(part)
            if not parts:
                raise ValueError(f"{part[:80]!r} is not BUNDLE:HEAD=NEW; write it as mine:classify=support")
            key = f"{Path(parts[1])}:{parts[2]}"
            if key in found:
                raise ValueError(f"{key!r} is given twice; leave one out")
            found[key] = parts[3]
        return found

    @field_validator("api_key")
    @classmethod
    def _strip(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value().strip(" \t\r\n") if value else None
        if key == "":
            raise ValueError("it is blank; set a key, or leave the setting out")
        if key and CONTROL.search(key):
            raise ValueError("it has a control character, which no header can carry; set a key of one line")
        return SecretStr(key) if key else None

    @field_validator("api_keys_file")
    @classmethod
    def _read(cls, value: Path | None) -> Path | None:
        if value:
            read_keys(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_origin(origin) for origin in value)

    @field_validator("safe_labels")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(label.lower() for label in value)

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = next((host for host in value if host != "*" and not HOST.fullmatch(host)), None)
        if wrong:
            raise ValueError(f"{wrong[:80]!r} is not a host; write a name without scheme and port, as api.example.com")
        return tuple(host.lower().removesuffix(".") for host in value)

    @model_validator(mode="after")
    def _key_for_metrics(self) -> Self:
        if self.protect_metrics and not self.asks_for_key:
            raise ValueError(
                "protect_metrics is set without a key; set BERTHEADS_API_KEY or BERTHEADS_API_KEYS_FILE too"
            )
        return self

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        given = ",".join(map(str, self.device))
        if min(self.device) < 0 or len(set(self.device)) < len(self.device):
            raise ValueError(f"device is {given}, expected different numbers from 0; write it as 0,1")
        if self.provider == "cpu" and self.device != (0,):
            raise ValueError(f"device is {given}, but the provider cpu has only device 0; set provider to cuda")
        return self

    @cached_property  # the cores may change; the number of workers does not
    def worker_count(self) -> int:
        """Number of worker processes."""
        cores = usable_cores()
        if self.workers:
            return self.workers
        if self.provider == "cuda":
            return max(1, min(FRONTS_PER_GPU * len(self.device), cores - len(self.device)))
        if self.lanes:
            return 1
        return max(1, min(round(cores / CORES_PER_WORKER), cores // self.threads))

    @property
    def has_fronts(self) -> bool:
        """Whether workers are fronts that share one engine process per device, instead of having their own engine."""
        return self.provider == "cuda" and (self.worker_count > 1 or len(self.device) > 1)

    @property
    def asks_for_key(self) -> bool:
        """Whether clients must send a key."""
        return bool(self.api_key or self.api_keys_file)

    @model_validator(mode="after")
    def _key_for_control(self) -> Self:
        if self.model_control == "explicit" and not self.asks_for_key:
            raise ValueError(
                "model_control is explicit without a key; set BERTHEADS_API_KEY or BERTHEADS_API_KEYS_FILE too"
            )
        return self

    @property
    def directories(self) -> list[Path]:
        """Directories of all bundles to load: the served ones, the canary, the shadow."""
        return [*self.bundles, *(extra for extra in (self.canary, self.shadow) if extra)]

    def with_names(self, rename: Mapping[str, str]) -> Self:
        """Return settings with more new names of heads."""
        return self.model_copy(update={"rename": {**self.rename, **rename}}) if rename else self

    @property
    def lane_count(self) -> int:
        """Number of lanes per engine."""
        engines = 1 if self.has_fronts else self.worker_count
        cpu = max(1, usable_cores() // (self.threads * engines))
        return self.lanes or (2 if self.provider == "cuda" else cpu)

    @property
    def token_budget(self) -> int:
        """Maximum tokens per batch, padding included."""
        return self.batch_tokens or (16_384 if self.provider == "cuda" else 384)


def _origin(given: str) -> str:
    """Return an origin as browsers write it; raise ValueError for anything else."""
    if given == "*":
        return given
    parts = ORIGIN.fullmatch(given.lower())
    if not parts:
        raise ValueError(f"{given[:80]!r} is not an origin; write scheme and host only, as https://app.example.com")
    scheme, host, port = parts.groups(default="")
    return f"{scheme}://{host}{'' if (scheme, port) in DEFAULT_PORTS else port}"


def check_environment() -> None:
    """Raise SettingsError for a BERTHEADS_ variable that is not a setting; remove those that Kubernetes set."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        if SERVICE_LINK.fullmatch(name) and (name not in known or "://" in os.environ[name]):
            del os.environ[name]
        elif name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "see python -m service --help"
            raise SettingsError(f"{name} is not a setting of the service; {hint}")
