"""bundle.json: the description of a bundle. Also reads JSON files that cannot be trusted."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from models.contents import AGAIN
from models.errors import BundleError
from models.onnx_runtime import Precision
from models.reference import Reference
from models.task import HeadSpec, ProblemType, TaskName, Trained

FORMAT: Literal["bertheads-bundle/1"] = "bertheads-bundle/1"
MANIFEST = "bundle.json"
TOKENIZER = "tokenizer.json"
PARITY = "parity.json"
PROBE = "probe.json"
CARD = "README.md"
HEADS = "heads"
"""The directory of the heads' graphs."""
MAX_JSON_BYTES = 16 << 20  # of bundle.json or parity.json; real ones have a few thousand

# No component begins with a dot or is empty, so "..", absolute paths and hidden files are excluded.
FileName = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$", max_length=200)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Entry(BaseModel):
    """Base of the parts of bundle.json: unknown fields and type conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class EncoderEntry(Entry):
    """The encoder: one graph per precision, all with the same weights."""

    files: dict[Precision, FileName] = Field(min_length=1)
    max_length: int = Field(ge=8)
    """Maximum tokens of a row, special ones included."""
    hidden_size: int = Field(ge=1)
    layers: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    lowercase: bool


class HeadEntry(Entry):
    """A head: one graph for all precisions of the encoder."""

    task: TaskName
    file: FileName
    labels: list[str]
    defaults: dict[str, JsonValue] = {}
    temperature: float = Field(1.0, gt=0)
    trained: Trained = Trained()
    problem_type: ProblemType = "single_label_classification"
    metrics: dict[str, JsonValue] = {}
    reference: Reference | None = None
    """Figures of the head on its validation data. If there are none the field is left out, so that services older than
    the field can read the bundle."""

    @property
    def spec(self) -> HeadSpec:
        """The part that the task code needs."""
        return HeadSpec(self.task, self.labels, self.defaults, self.temperature, self.trained, self.problem_type)

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if (self.task in ("fill-mask", "qa")) == bool(self.labels):
            expected = "none, its logits have fixed meanings" if self.labels else "one for each logit"
            raise ValueError(f"{len(self.labels)} labels for task {self.task}, expected {expected}")
        if self.task not in ("classify", "pair") and self.problem_type != "single_label_classification":
            raise ValueError(f"problem_type {self.problem_type} for task {self.task}, expected it for classify or pair")
        repeated = {label for label in self.labels if self.labels.count(label) > 1}
        if repeated:
            raise ValueError(f"label {min(repeated)!r} occurs more than once, expected each once")
        if self.reference:
            self.reference.check(self.spec)
        return self

    @model_serializer(mode="wrap")
    def _leave_out(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return written if self.reference else {key: value for key, value in written.items() if key != "reference"}


class Manifest(Entry):
    """bundle.json."""

    format: Literal["bertheads-bundle/1"] = FORMAT
    name: Name
    version: Name
    encoder: EncoderEntry
    heads: dict[Name, HeadEntry] = Field(min_length=1)
    sha256: dict[FileName, Digest]
    """Hashes of all files except bundle.json."""
    provenance: dict[str, JsonValue]
    """Base checkpoint, data and licenses, command, commit, library versions."""

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        files = [*self.encoder.files.values(), *(head.file for head in self.heads.values())]
        repeated = {file for file in files if files.count(file) > 1}
        if repeated:
            raise ValueError(f"file {min(repeated)!r} is named more than once, expected a separate graph for each")
        for file in (*files, TOKENIZER, PARITY):
            if file not in self.sha256:
                raise ValueError(f"sha256 has no entry for {file!r}, expected one for every file")
        return self


def read_manifest(path: Path) -> Manifest:
    """Read only bundle.json; raise BundleError, which names the wrong field."""
    return parse_manifest(read_json(path), path)


def parse_manifest(contents: bytes, path: Path) -> Manifest:
    """Parse and check the contents of bundle.json; raise BundleError, which names `path` and the wrong field."""
    values = parse_object(contents, path)
    if values.get("format") != FORMAT:
        raise BundleError(f"{path}: format is {values.get('format')!r}, expected {FORMAT!r}; export the bundle again")
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        message = first["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(first["input"], dict) else f" is {repr(first['input'])[:80]}"
        raise BundleError(f"{path}: {field}{shown}: {message}; {AGAIN}") from None


def read_json(path: Path) -> bytes:
    """Read a JSON file of a bundle; raise BundleError if it is missing or too large."""
    if not path.is_file():
        raise BundleError(f"{path} does not exist; pass the directory of a bundle")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise BundleError(f"{path} has {path.stat().st_size} bytes, expected at most {MAX_JSON_BYTES}; {AGAIN}")
    return path.read_bytes()


def parse_object(contents: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object of a bundle; raise BundleError for repeated keys too, on which parsers disagree."""
    if len(contents) > MAX_JSON_BYTES:
        raise BundleError(f"{path} has {len(contents)} bytes, expected at most {MAX_JSON_BYTES}; {AGAIN}")
    try:
        values = json.loads(contents.decode("utf8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON ({error}); {AGAIN}") from None
    if not isinstance(values, dict):
        raise BundleError(f"{path} holds a {type(values).__name__}, expected a JSON object; {AGAIN}")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs more than once")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
