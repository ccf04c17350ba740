"""If these fail, a finetuned directory is read differently than by transformers, or its answers over HTTP differ."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForPreTraining, pipeline

from models.bundle import read_bundle
from models.checkpoint import Checkpoint
from models.errors import CheckpointError
from models.manifest import NAME
from models.task import TaskName
from models.tokenizer import Tokenizer
from tests import families
from tests.models.directories import save
from tests.service.serving import Served, serving
from training.__main__ import main
from training.exporting.export import ExportOptions, export
from training.exporting.hugging_face_import import head_name
from training.exporting.transformers_answers import KINDS, inputs_of, open_theirs, stripped
from training.exporting.verify import PARAMETERS
from training.run.hugging_face import read_hugging_face

TOLERANCE = 1e-5
"""Of scores; relative to raw ones above 1."""
WHOLE = [(family, kind) for family, kind, form in families.CASES if form == "safetensors"]
STRATEGIES = ("simple", "first", "average", "max")


@dataclass(frozen=True)
class Directories:
    """All directories, and a service with a bundle of each family."""

    served: Served
    root: Path

    def directory(self, family: str, kind: str) -> Path:
        return self.root / family / kind


def read(family: str, kind: str, directory: Path) -> Checkpoint:
    task = families.TASKS.get(kind, kind)
    return read_hugging_face(directory, f"{family}-{kind}", task if task in ("classify", "pair") else None)  # type: ignore[arg-type]


def write_family(family: str, root: Path) -> Path:
    """Import all directories of a family into one bundle, which is possible because their encoders are equal."""
    kinds = [kind for each, kind in WHOLE if each == family]
    first, *others = [read(family, kind, families.write(family, kind, root / family / kind)) for kind in kinds]
    for other in others:
        weights = other.encoder.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in first.encoder.state_dict().items())
        first.heads |= other.heads
    export(first, root / family / "bundle", ExportOptions(family, precisions=("fp32",)))
    return root / family / "bundle"


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directories]:
    root = tmp_path_factory.mktemp("families")
    bundles = [write_family(family, root) for family in dict.fromkeys(family for family, _ in WHOLE)]
    with serving(*bundles, lanes=2) as served:
        yield Directories(served, root)


def body_of(one: Any) -> Any:
    return one if isinstance(one, str) else one.model_dump()


def assert_choices(found: list[dict[Any, float]], expected: list[dict[Any, float]], text: str) -> None:
    """Compare the alternatives by rank, and by score where a tie may change the order."""
    assert len(found) == len(expected), text
    for mine, theirs in zip(found, expected, strict=True):
        scale = max(1.0, *map(abs, theirs.values()))
        best = max(theirs.values())
        assert theirs.get(next(iter(mine)), -np.inf) >= best - 2 * TOLERANCE * scale, text
        np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize(("family", "kind"), WHOLE)
def test_a_directory_answers_over_http_as_in_transformers(directories: Directories, family: str, kind: str) -> None:
    name, bundle = f"{family}-{kind}", read_bundle(directories.root / family / "bundle")
    spec = bundle.manifest.heads[name].spec
    theirs = open_theirs(directories.directory(family, kind), spec, bundle.manifest.encoder.max_length)
    inputs = inputs_of(spec.task, bundle, theirs, [])
    inputs = [*inputs[: len(KINDS)], *inputs[len(KINDS) :: 10], inputs[-1]]
    asked = {key: value for key, value in PARAMETERS[spec.task].items() if key != "pieces"}
    asked |= {"max_seq_len": theirs.length} if spec.task == "qa" else {}
    answers = directories.served.answer(f"/{spec.task}/{name}", [body_of(one) for one in inputs], **asked)
    task = directories.served.service.heads.get(name).task
    for one, answer in zip(inputs, answers, strict=True):
        assert theirs.has_tokens(one, task.encode(one, task.parse_parameters(asked)).rows), theirs.text(one)
        assert_choices(theirs.choices(answer), theirs.answer(one), theirs.text(one))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("family", [family for family, kind in WHOLE if kind == "tag"])
def test_spans_over_http_are_those_of_transformers(directories: Directories, family: str) -> None:
    tokenizer = families.tokenizer_of(family)
    texts = [text for text in KINDS if len(tokenizer(text)["input_ids"]) <= families.MAX_LENGTH]
    ask: Any = pipeline("token-classification", str(directories.directory(family, "tag")))
    for strategy in STRATEGIES:
        answers = directories.served.answer(f"/tag/{family}-tag", texts, aggregation_strategy=strategy)
        for text, found in zip(texts, answers, strict=True):
            given = ask(text, aggregation_strategy=strategy)
            expected = [each for each in given if text[each["start"] : each["end"]].strip()]
            spans = [bounds(text, each, tokenizer) for each in expected]
            assert [bounds(text, one, tokenizer) for one in found] == spans, (strategy, text)
            assert all(one["word"] == text[one["start"] : one["end"]] for one in found)
            assert [one["entity_group"] for one in found] == [each["entity_group"] for each in expected]
            scores = [each["score"] for each in expected]
            np.testing.assert_allclose([one["score"] for one in found], scores, rtol=0, atol=TOLERANCE)


def bounds(text: str, span: dict[str, Any], tokenizer: Any) -> tuple[int, int]:
    return stripped(text[span["start"] : span["end"]], span["start"], getattr(tokenizer, "do_lower_case", False))


@pytest.mark.parametrize("family", [family for family, kind in WHOLE if kind == "fill-mask"])
def test_the_masks_own_name_works_too(directories: Directories, family: str) -> None:
    mask = str(families.tokenizer_of(family).mask_token)
    route, texts = f"/fill-mask/{family}-fill-mask", ("The {} of Paris.", "{}", "a{} b", "one {} {}")
    asked = [[text.format(*[name] * 2) for text in texts] for name in ("[MASK]", mask)]
    assert directories.served.answer(route, asked[0]) == directories.served.answer(route, asked[1])


@pytest.mark.parametrize(("family", "kind", "form"), [case for case in families.CASES if case[2] != "safetensors"])
def test_every_form_holds_the_same(directories: Directories, family: str, kind: str, form: str, tmp_path: Path) -> None:
    expected = read(family, kind, directories.directory(family, kind))
    place = families.write(family, kind, tmp_path / "other", form)
    found = read(family, kind, place)
    for mine, theirs in ((found.encoder, expected.encoder), *_modules(found, expected)):
        weights = theirs.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in mine.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(place)
    for text in KINDS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found.tokenizer.encode(text).ids == ids, text
    if form == "trainer":
        with pytest.raises(CheckpointError, match="checkpoint-1000"):
            read(family, kind, place.parent)


def _modules(found: Checkpoint, expected: Checkpoint) -> Iterator[tuple[torch.nn.Module, torch.nn.Module]]:
    assert found.heads.keys() == expected.heads.keys()
    for name, head in found.heads.items():
        assert head.spec == expected.heads[name].spec
        yield head.module, expected.heads[name].module


def test_every_task_is_among_the_kinds() -> None:
    tasks = {families.TASKS.get(kind, kind) for kind in families.KINDS}
    assert tasks == set(get_args(TaskName))


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("support", "support"),
        ("my model (v2)", "my-model-v2"),
        ("out/intents/checkpoint-500", "intents"),
        ("checkpoint-final", "checkpoint-final"),
        ("models--acme--ner-large/snapshots/0123abc", "ner-large"),
        (".hidden", "hidden"),
        ("été", "t"),
        ("模型", "head"),
        ("x" * 90, "x" * 50),
    ],
)
def test_a_head_is_named_after_its_directory(directory: str, name: str, tmp_path: Path) -> None:
    assert head_name(tmp_path / directory) == name and re.fullmatch(NAME, name)


def test_import_gives_the_name_and_a_flag_another(tmp_path: Path) -> None:
    place = families.write("bert", "classify", tmp_path / "intents" / "checkpoint-9")
    for number, flags in enumerate(([], ["--head", "mood"])):
        main(["import", str(place), "--out", str(tmp_path / str(number)), "--precision", "fp32", *flags])
    assert [list(read_bundle(tmp_path / name).manifest.heads) for name in "01"] == [["intents"], ["mood"]]


def test_several_heads_begin_with_the_name_of_their_directory(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForPreTraining, tokenizer, tmp_path / "base")
    main(["import", str(tmp_path / "base"), "--out", str(tmp_path / "bundle"), "--precision", "fp32"])
    assert list(read_bundle(tmp_path / "bundle").manifest.heads) == ["base-fill-mask", "base-nsp"]
