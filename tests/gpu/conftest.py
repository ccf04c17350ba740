"""The CUDA provider of onnxruntime-gpu on the stand-ins of tests/standins, and bundles for it."""

from pathlib import Path

import pytest
from transformers import BertForQuestionAnswering

from models.tokenizer import Tokenizer
from tests.models import bundles
from tests.models.directories import save
from tests.standins.emulated_gpu import PYTHON, EmulatedGPU
from training.exporting.export import ExportOptions, export
from training.run.hugging_face import read_hugging_face

BASE = {"num_hidden_layers": 12, "hidden_size": 128, "intermediate_size": 512, "max_position_embeddings": 512}
"""BERT-base with two attention heads of 64 in place of twelve: the same operators, and a sixth of its width."""


@pytest.fixture(autouse=True)
def has_onnxruntime_gpu() -> None:
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON} with onnxruntime-gpu; run make gpu-check")


@pytest.fixture
def gpu(tmp_path: Path) -> EmulatedGPU:
    """An H100 that takes no time."""
    logs = tmp_path / "device"
    logs.mkdir()
    return EmulatedGPU(logs)


@pytest.fixture(scope="session")
def base(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of BASE, imported from a directory of transformers, with a head for questions."""
    place = tmp_path_factory.mktemp("base")
    save(BertForQuestionAnswering, tokenizer, place / "theirs", initializer_range=0.05, **BASE)
    options = ExportOptions("base", precisions=("fp16",), budget=bundles.ANY_LOSS)
    return export(read_hugging_face(place / "theirs"), place / "bundle", options).directory


@pytest.fixture(scope="session")
def small(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two small layers with a head of every task, in fp16 and int8."""
    return bundles.make(tokenizer, tmp_path_factory.mktemp("small") / "bundle", ("fp16", "int8")).directory
