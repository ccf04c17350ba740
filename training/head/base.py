"""The facts about a base that the defaults of a head depend on, without reading its weights."""

from dataclasses import dataclass
from pathlib import Path

from models.config import EncoderConfig, read_json
from models.errors import CheckpointError
from models.manifest import MANIFEST, read_manifest
from models.tokenizer import Tokenizer

STARTER = Path(__file__).parents[2] / "models" / "starter"


@dataclass(frozen=True)
class Base:
    """The sizes of an encoder, and its tokenizer."""

    directory: Path
    tokenizer: Tokenizer
    hidden_size: int
    layers: int
    max_length: int
    heads: frozenset[str]
    """Names of its heads, if it is a bundle."""
    is_bundle: bool

    @classmethod
    def read(cls, directory: Path) -> "Base":
        """Read a bundle, a checkpoint, or a Hugging Face directory; raise BundleError or CheckpointError."""
        if not directory.is_dir():
            raise CheckpointError(
                f"--base {directory} is not a directory, expected a bundle, a checkpoint, or a Hugging Face directory; "
                "correct the path, or leave --base out for the starter"
            )
        tokenizer = Tokenizer.read(directory)
        if (directory / MANIFEST).exists():
            manifest = read_manifest(directory / MANIFEST)
            shape = manifest.encoder
            sizes = shape.hidden_size, shape.layers, shape.max_length
            return cls(directory, tokenizer, *sizes, frozenset(manifest.heads), True)
        config = EncoderConfig.from_dict(read_json(directory / "config.json"), str(directory / "config.json"))
        sizes = config.hidden_size, config.num_hidden_layers, config.max_length
        return cls(directory, tokenizer, *sizes, frozenset(), False)
