"""Settings of the service: environment variables BERTHEADS_*, and flags of the same names, which win.

BERTHEADS_BUNDLES=models/starter,/bundles/legal python -m service --port 9000 --lanes 4
"""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

import models
from service.cores import usable_cores
from service.errors import SettingsError

PREFIX = "BERTHEADS_"
STARTER = Path(models.__file__).parent / "starter"
# What Kubernetes sets in every pod beside a Service named bertheads: BERTHEADS_PORT=tcp://10.0.0.1:80 and its kin.
SERVICE_LINK = re.compile(r"BERTHEADS_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?)")


class Settings(BaseSettings):
    """Each description is also the help of the flag."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        (STARTER,), min_length=1, description="directories of the bundles to serve, separated by commas"
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 for any that is free")
    workers: int = Field(
        1, ge=1, le=1024, description="processes that share the port, each with its own lanes and queue"
    )
    lanes: int = Field(
        0, ge=0, le=1024, description="batches that run at a time in a worker; 0: one a usable core, one on a GPU"
    )
    threads: int = Field(1, ge=1, le=1024, description="threads of ONNX Runtime within a lane")
    batch_tokens: int = Field(0, ge=0, description="tokens of a batch, padding included; 0: 384, 16384 on a GPU")
    max_queued_tokens: int = Field(
        131_072, ge=512, description="tokens that may wait in a worker before it answers 429"
    )
    deadline: float = Field(30.0, gt=0, le=3600, description="seconds after which a request is given up with 504")
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="bytes of a request body, else 413")
    max_characters: int = Field(100_000, ge=1, description="characters of a text, else 422")
    max_items: int = Field(256, ge=1, description="inputs of a list, else 422")
    api_key: SecretStr | None = Field(
        None, min_length=1, description="key that clients send as Authorization: Bearer KEY"
    )
    protect_metrics: bool = Field(False, description="ask for the key on /metrics too")
    precision: Literal["int8", "fp16", "fp32"] | None = Field(
        None, description="precision of the encoders; by default the bundle's best for the provider"
    )
    provider: Literal["cpu", "cuda"] = Field("cpu", description="what ONNX Runtime runs on")
    model_control: Literal["none", "explicit"] = Field(
        "none", description="explicit: bundles can be loaded and unloaded by POST /v2/repository; needs an api_key"
    )
    bundle_root: Path | None = Field(
        None, description="directory of bundles that may be loaded while it runs, as NAME/VERSION"
    )
    watch: float = Field(
        0.0, ge=0, le=86_400, description="seconds between looks whether a bundle was replaced on disk; 0: never"
    )
    canary: Path | None = Field(
        None, description="directory of a bundle whose heads answer a part of the requests for heads of their names"
    )
    canary_percent: int = Field(10, ge=0, le=100, description="percent of requests that the canary answers")
    canary_by: str = Field(
        "", description="header by whose value the canary's requests are chosen; by default each by chance"
    )
    shadow: Path | None = Field(
        None, description="directory of a bundle that computes answers too, only to count where they differ"
    )
    lane_timeout: float = Field(120.0, gt=0, description="seconds of one batch after which its lane counts as dead")
    drain_delay: float = Field(
        0.0, ge=0, description="seconds between SIGTERM and closing the port: not ready, but still answering"
    )
    drain_timeout: int = Field(30, ge=1, description="seconds that requests in flight get to finish after that")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["text", "json"] = Field("text", description="lines for people or for machines")

    @field_validator("bundles", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _key_for_metrics(self) -> Self:
        if self.protect_metrics and self.api_key is None:
            raise ValueError("protect_metrics is set without an api_key; set BERTHEADS_API_KEY too")
        return self

    @model_validator(mode="after")
    def _key_for_control(self) -> Self:
        if self.model_control == "explicit" and self.api_key is None:
            raise ValueError("model_control is explicit without an api_key; set BERTHEADS_API_KEY too")
        return self

    @property
    def directories(self) -> list[Path]:
        """All bundles that are loaded."""
        return [*self.bundles, *(extra for extra in (self.canary, self.shadow) if extra)]

    @property
    def lane_count(self) -> int:
        """Lanes of one worker."""
        cpu = max(1, usable_cores() // (self.threads * self.workers))
        return self.lanes or (1 if self.provider == "cuda" else cpu)

    @property
    def token_budget(self) -> int:
        """Tokens of one batch."""
        return self.batch_tokens or (16_384 if self.provider == "cuda" else 384)


def check_environment() -> None:
    """Raise SettingsError for a BERTHEADS_ variable that is no setting; remove those that Kubernetes set."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        if SERVICE_LINK.fullmatch(name) and (name not in known or "://" in os.environ[name]):
            del os.environ[name]
        elif name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "see python -m service --help"
            raise SettingsError(f"{name} is no setting of the service; {hint}")
