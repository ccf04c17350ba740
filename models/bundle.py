"""The bundle: the directory that training exports and the service loads.

    bundle.json · tokenizer.json · encoder.PRECISION.onnx · heads/NAME.onnx · parity.json · README.md
    *.bin: constants of those graphs, in separate files

`read_bundle` checks every hash, name, type and shape; a BundleError names file, value, expectation and remedy. Hashes
detect damage and mistakes, not attacks: anyone who may write the directory can also rewrite the hashes.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.batch import PACKED, PADDED
from models.contents import AGAIN, Contents
from models.errors import BundleError, CheckpointError
from models.manifest import (
    MANIFEST,
    PARITY,
    TOKENIZER,
    EncoderEntry,
    HeadEntry,
    Manifest,
    parse_manifest,
    parse_object,
    read_json,
)
from models.onnx_runtime import Graph, Signature, metadata_json, read_signature
from models.task_registry import TASKS
from models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Bundle:
    """A verified bundle."""

    directory: Path
    manifest: Manifest
    tokenizer: Tokenizer
    digest: str = ""
    """SHA-256 of bundle.json, which contains the hashes of all other files, so it identifies the whole bundle."""

    def open(self) -> Contents:
        """Return a context that reads and verifies files; they may have changed since `read_bundle`."""
        return Contents(self.directory, self.manifest.sha256)


def read_bundle(directory: Path) -> Bundle:
    """Read and verify a bundle; raise BundleError for the first fault."""
    if not directory.is_dir():
        raise BundleError(f"{directory} is not a directory, expected a bundle; pass the directory with {MANIFEST}")
    described = read_json(directory / MANIFEST)
    manifest = parse_manifest(described, directory / MANIFEST)
    _check_names(directory, manifest.sha256)
    with Contents(directory, manifest.sha256) as contents:
        tokenizer = _read_tokenizer(contents, manifest.encoder)
        _check_tasks(directory / MANIFEST, manifest, tokenizer)
        _check_parity(contents, manifest)
        graphs = _check_graphs(contents, manifest)
        for file in manifest.sha256.keys() - graphs - {TOKENIZER, PARITY}:
            contents.check(file)
    return Bundle(directory, manifest, tokenizer, hashlib.sha256(described).hexdigest())


# ---- writing -------------------------------------------------------------------------------------------------------


@contextmanager
def staged(out: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory to fill. It becomes `out` when the block ends, and is removed if the block raises.

    Raises BundleError if `out` exists, unless `replace` is set and it is a bundle that contains no other files.
    """
    if out.exists() and not replace:
        raise BundleError(f"{out} exists already; choose another --out, or pass --replace to overwrite a bundle")
    if out.exists() and not (out / MANIFEST).is_file():
        raise BundleError(f"{out} exists and is not a bundle (it has no {MANIFEST}); choose another --out")
    if out.exists():
        _refuse_others(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        staging.chmod(0o755)  # mkdtemp's 0700 would keep the service's user out
        yield staging
        _publish(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_others(out: Path) -> None:
    """Raise BundleError for a file that the bundle does not list, as replacing the directory would delete it."""
    listed = parse_object(read_json(out / MANIFEST), out / MANIFEST).get("sha256")
    for name in _files(out):
        if name != MANIFEST and not (isinstance(listed, dict) and name in listed):
            found = out / name
            raise BundleError(f"{found} is not part of the bundle and would be lost; move it, or choose another --out")


def seal(directory: Path, manifest: Manifest) -> Manifest:
    """Write bundle.json with the hashes of all files in `directory`, and return it; the files must not change later."""
    hashes = {name: sha256_of(directory / name) for name in sorted(_files(directory)) if name != MANIFEST}
    sealed = Manifest.model_validate(manifest.model_dump() | {"sha256": hashes})
    text = sealed.model_dump_json(indent=2) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf8")
    return sealed


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(staging: Path, out: Path) -> None:
    for name in _files(staging):
        _flush(staging / name)
    if out.exists():
        # Between the two renames there is no bundle: no portable operation replaces a directory in one step.
        retired = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)) / "retired"
        out.rename(retired)
        staging.rename(out)
        shutil.rmtree(retired.parent)
    else:
        staging.rename(out)
    _flush(out.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- verifying -----------------------------------------------------------------------------------------------------


def _files(directory: Path) -> list[str]:
    """Return the names of all files below `directory`, relative to it; raise BundleError for a symbolic link."""
    names = []
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            raise BundleError(f"{path} is a symbolic link, expected a file; copy the file to its place")
        if not path.is_dir():
            names.append(path.relative_to(directory).as_posix())
    return names


def _check_names(directory: Path, hashes: dict[str, str]) -> None:
    found = set(_files(directory)) - {MANIFEST}
    for name in sorted(hashes.keys() - found):
        raise BundleError(f"{directory / name} does not exist, though {MANIFEST} lists it; {AGAIN}")
    for name in sorted(found - hashes.keys()):
        raise BundleError(f"{directory / name} is not listed in {MANIFEST}; remove it, or export the bundle again")


def _read_tokenizer(contents: Contents, encoder: EncoderEntry) -> Tokenizer:
    path = contents.directory / TOKENIZER
    try:
        tokenizer = Tokenizer.parse(contents.read(TOKENIZER), path)
    except CheckpointError as error:
        raise BundleError(str(error)) from None
    if tokenizer.vocab_size != encoder.vocab_size:
        raise BundleError(
            f"{path} has {tokenizer.vocab_size} entries, expected {encoder.vocab_size} by encoder.vocab_size in "
            f"{MANIFEST}; put the tokenizer there that the encoder was trained with"
        )
    if tokenizer.lowercase != encoder.lowercase:
        raise BundleError(
            f"{path} lowercases: {tokenizer.lowercase}, expected {encoder.lowercase} by encoder.lowercase in "
            f"{MANIFEST}; put the tokenizer there that the encoder was trained with"
        )
    return tokenizer


def _check_tasks(path: Path, manifest: Manifest, tokenizer: Tokenizer) -> None:
    for name, head in manifest.heads.items():
        try:
            TASKS[head.task](tokenizer, head.spec, manifest.encoder.max_length)
        except BundleError as error:
            raise BundleError(f"{path}: heads.{name}: {error}; correct its defaults") from None


def _check_parity(contents: Contents, manifest: Manifest) -> None:
    path = contents.directory / PARITY
    measured = parse_object(contents.read(PARITY), path).get("precisions")
    for precision in manifest.encoder.files:
        of_precision = measured.get(precision) if isinstance(measured, dict) else None
        heads = of_precision.get("heads") if isinstance(of_precision, dict) else None
        for name in manifest.heads:
            if not isinstance(heads, dict) or name not in heads:
                raise BundleError(f"{path} has no figures for head {name!r} in {precision}; export the bundle again")


def _check_graphs(contents: Contents, manifest: Manifest) -> set[str]:
    """Return the names of all graphs."""
    fingerprints = {}
    for file in manifest.encoder.files.values():
        fingerprints[file] = _check_encoder(contents.graph(file), manifest.encoder)
    for name, head in manifest.heads.items():
        fingerprints[head.file] = _check_head(contents.graph(head.file), name, head, manifest.encoder)
    first, expected = next(iter(fingerprints.items()))
    for file, found in fingerprints.items():
        if found != expected:
            raise BundleError(
                f"{contents.directory / file} belongs to encoder {found}, expected {expected} as {first}; "
                "a head reads only the encoder it was trained with: export both together"
            )
    return set(fingerprints)


def _check_encoder(opened: Graph, encoder: EncoderEntry) -> str:
    """Return the fingerprint of the encoder's weights."""
    path, graph = opened.path, read_signature(opened)
    _check_values(path, "inputs", graph.inputs, PACKED if "places" in graph.inputs else PADDED)
    _check_values(path, "outputs", graph.outputs, {"vectors": ("tensor(float)", ["N", encoder.hidden_size])})
    for key, limit in (("vocab_size", encoder.vocab_size), ("layers", encoder.layers)):
        _check_equal(path, f"encoder.{key}", limit, metadata_json(graph.metadata, key, path))
    longest = metadata_json(graph.metadata, "max_length", path)
    if encoder.max_length > longest:
        raise BundleError(
            f"{path} has {longest} positions, but encoder.max_length in {MANIFEST} is {encoder.max_length}; "
            f"lower it to {longest}"
        )
    return _fingerprint(graph, path)


def _check_head(opened: Graph, name: str, head: HeadEntry, encoder: EncoderEntry) -> str:
    """Return the fingerprint of the encoder that the head belongs to."""
    path, graph = opened.path, read_signature(opened)
    _check_values(path, "inputs", graph.inputs, {"vectors": ("tensor(float)", ["n", encoder.hidden_size])})
    width = head.spec.width(encoder.vocab_size)
    _check_values(path, "outputs", graph.outputs, {"logits": ("tensor(float)", ["n", width])})
    _check_equal(path, f"heads.{name}.task", head.task, metadata_json(graph.metadata, "task", path))
    _check_equal(path, f"heads.{name}.labels", head.labels, metadata_json(graph.metadata, "labels", path))
    return _fingerprint(graph, path)


def _check_values(path: Path, which: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare names, types, ranks and fixed sizes; sizes given as letters may be any number."""

    def sizes(shape: list[Any]) -> list[Any]:
        return [size if isinstance(size, int) else "any" for size in shape]

    shown = {name: (kind, sizes(shape)) for name, (kind, shape) in found.items()}
    wanted = {name: (kind, sizes(shape)) for name, (kind, shape) in expected.items()}
    if shown != wanted:
        raise BundleError(f"{path}: {which} are {shown}, expected {wanted} by {MANIFEST}; {AGAIN}")


def _check_equal(path: Path, field: str, manifest: object, graph: object) -> None:
    if manifest != graph:
        raise BundleError(
            f"{path} was exported with {field} {repr(graph)[:200]}, but {MANIFEST} says {repr(manifest)[:200]}; "
            "correct it there, or export the bundle again"
        )


def _fingerprint(graph: Signature, path: Path) -> str:
    return str(metadata_json(graph.metadata, "encoder", path))
