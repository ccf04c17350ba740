"""If these fail, multi-label or regression heads are served differently than they were trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from models.task import HeadSpec, ProblemType
from models.tokenizer import Tokenizer
from tests.models import bundles
from tests.service.serving import serving
from training.errors import DataError, RecipeError
from training.evaluation.class_figures import best_threshold
from training.evaluation.evaluate import evaluate, open_predictor
from training.evaluation.labeling import label
from training.evaluation.predictors import CheckpointPredictor
from training.evaluation.report import read_report
from training.exporting.export import ExportOptions, export
from training.finetuning.calibration import decisions, fit_temperature
from training.finetuning.finetune import finetune, prepare
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.finetuning.targets import Target, batch_loss, targets
from training.parity.run_files import RunFiles
from training.text.examples import PairExample, TextExample

MULTI: ProblemType = "multi_label_classification"
WORDS = {"animal": ["cat", "dog"], "place": ["city", "house"], "person": ["man", "woman"]}
KINDS = list(WORDS)


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts that name animals, places and people, their kinds, and how many there are."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        kinds = [kind for kind in KINDS if generator.random() < 0.4]
        words = ["the", *(str(generator.choice(WORDS[kind])) for kind in kinds), "runs"]
        made.append({"text": " ".join(words), "label": kinds, "count": 50 + 1.5 * len(kinds)})
    made[0] = {"text": "the cat runs " * 12, "label": ["animal"], "count": 51.5}  # longer than a row: read in windows
    return made


def write(path: Path, found: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), "utf8")
    return str(path)


@pytest.fixture(scope="module")
def trained(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a head of several labels, and one of numbers, beside each other."""
    directory = tmp_path_factory.mktemp("kinds")
    write_checkpoint(bundles.checkpoint(tokenizer, {"old": HeadSpec("classify", ["a", "b"])}), directory / "base")
    sets, numbers = rows(200), [row | {"label": row["count"]} for row in rows(200)]
    files = {name: write(directory / f"{name}.jsonl", found) for name, found in (("kinds", sets), ("count", numbers))}
    heads = {name: HeadRecipe("classify", [file], [file], max_length=16) for name, file in files.items()}
    recipe = FinetuneRecipe(
        str(directory / "base"), heads, steps=360, rate=1e-3, head_rate=5e-3, dropout=0, attention_dropout=0, threads=1
    )
    finetune(recipe, directory / "run")
    return directory


def test_the_heads_learned_what_the_form_of_their_labels_says(trained: Path) -> None:
    heads = read_checkpoint(trained / "run").heads
    kinds, count = heads["kinds"], heads["count"]
    assert (kinds.spec.problem_type, kinds.spec.labels) == (MULTI, sorted(KINDS))
    assert (count.spec.problem_type, count.spec.labels) == ("regression", ["score"])
    assert kinds.metrics["micro_f1"] > 0.9 > 0.7 > kinds.metrics["micro_f1_chance"]
    assert count.metrics["pearson"] > 0.95 and count.metrics["mean_absolute_error"] < 0.4
    assert count.spec.temperature == 1.0 and "calibration_error" not in count.metrics
    assert kinds.metrics["thresholds"].keys() == set(KINDS)


def test_what_was_trained_is_gated_in_int8_served_and_measured(trained: Path, tokenizer: Tokenizer) -> None:
    checkpoint = read_checkpoint(trained / "run")
    run = RunFiles.find(trained / "run")
    bundle = export(checkpoint, trained / "bundle", ExportOptions("kinds", budget=2.0, run=run, limit=100))
    figures = json.loads((bundle.directory / "parity.json").read_text())["precisions"]["int8"]["heads"]
    assert figures["kinds"]["validation"]["metric"] == "micro_f1"
    assert figures["count"]["validation"]["metric"] == "pearson"
    assert bundle.manifest.heads["kinds"].metrics["thresholds"] == checkpoint.heads["kinds"].metrics["thresholds"]
    assert bundle.manifest.heads["kinds"].problem_type == MULTI
    report = read_report(bundle.directory / "reports" / "kinds")  # of the run: the sample has fewer examples
    assert (
        report is not None
        and report.scores["examples"] == 200
        and report.scores
        == pytest.approx(
            {key: value for key, value in checkpoint.heads["kinds"].metrics.items() if key in report.scores}
        )
    )
    for name in ("report.json", "residuals.png"):
        assert (bundle.directory / "reports" / "count" / name).read_bytes() == (
            trained / "run" / "reports" / "count" / name
        ).read_bytes()
    assert not list(bundle.directory.rglob("wrong.jsonl"))
    assert "Figures of kinds, count are of PyTorch in fp32" in (bundle.directory / "README.md").read_text()
    text = next(row["text"] for row in rows(200) if row["label"] == ["animal", "person"])
    with serving(bundle.directory) as served:
        answers = {each["label"]: each["score"] for each in served.answer("/classify/kinds", text)[0]}
        assert min(answers["animal"], answers["person"]) > 0.5 > answers["place"]
        thresholds = served.client.get("/heads/kinds").json()["metrics"]["thresholds"]
        chosen = served.answer("/classify/kinds", text, threshold=thresholds)[0]
        assert {each["label"] for each in chosen} == {"animal", "person"}
        [[number]] = served.answer("/classify/count", [text])
        assert number["label"] == "score" and number["score"] == pytest.approx(53, abs=1)
        assert served.sample("confidence_count", head="kinds") and not served.sample("confidence_count", head="count")
        wrong = served.post("/classify/kinds", text, threshold={"animals": 0.5}).json()["detail"]
        assert "has 'animals', but this head has the labels animal, person, place" in wrong
        remote = open_predictor([served.url])
        for name in ("kinds", "count"):
            found = evaluate(remote, name, [trained / f"{name}.jsonl"], 50)
            expected = evaluate(CheckpointPredictor.of(checkpoint), name, [trained / f"{name}.jsonl"], 50)
            assert found.keys() == expected.keys()
            assert found["examples"] == 50 and found == pytest.approx(expected, abs=0.15)
        labeled = label(remote, "kinds", [text])[0]
        assert labeled.record == {"text": text, "label": ["animal", "person"]} and 0.5 < labeled.sure < 1
        assert label(remote, "count", [text])[0].record["label"] == pytest.approx(53, abs=1)


def test_transformers_answers_the_same_with_what_was_trained(trained: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(trained / "run")
    for name in ("kinds", "count"):
        head = checkpoint.heads[name]
        plain = head._replace(spec=replace(head.spec, temperature=1.0))
        alone = Checkpoint(checkpoint.config, checkpoint.encoder, checkpoint.tokenizer, {name: plain})
        write_checkpoint(alone, tmp_path / name)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        theirs: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
        [mine] = CheckpointPredictor.of(read_checkpoint(tmp_path / name)).predict(name, ["the cat woman runs"], {})
        [expected] = theirs(["the cat woman runs"])
        assert [each["label"] for each in mine.answer] == [each["label"] for each in expected]
        assert [each["score"] for each in mine.answer] == pytest.approx([each["score"] for each in expected], abs=1e-4)


# ---- parts ----------------------------------------------------------------------------------------------------------


def batch_of(tokenizer: Tokenizer, examples: list[TextExample], spec: HeadSpec) -> list[Target]:
    return targets(examples, spec, tokenizer, 16)


def test_the_loss_of_sets_is_binary_cross_entropy(tokenizer: Tokenizer) -> None:
    spec = HeadSpec("classify", KINDS, problem_type=MULTI)
    batch = batch_of(tokenizer, [TextExample("a cat", ("animal", "person")), TextExample("a", ())], spec)
    assert [target.labels for target in batch] == [[1, 0, 1], [0, 0, 0]]
    logits, other = torch.randn(2, 2, 3)
    truth = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    torch.testing.assert_close(batch_loss(spec, logits, batch), F.binary_cross_entropy_with_logits(logits, truth))
    both = torch.cat([logits, other])
    p, q = (torch.distributions.Bernoulli(logits=each) for each in (logits, other))
    distance = (torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)).mean() / 2
    alone = F.binary_cross_entropy_with_logits(both, torch.cat([truth, truth]))
    torch.testing.assert_close(batch_loss(spec, both, batch * 2, 0.7), alone + 0.7 * distance)


def test_the_loss_of_numbers_is_their_squared_error(tokenizer: Tokenizer) -> None:
    spec = HeadSpec("classify", ["score"], problem_type="regression")
    batch = batch_of(tokenizer, [TextExample("a cat", 2.5), TextExample("a", -1.0)], spec)
    logits = torch.tensor([[2.0], [1.0]])
    torch.testing.assert_close(batch_loss(spec, logits, batch), torch.tensor((0.25 + 4) / 2))
    both = torch.cat([logits, logits + 1])
    torch.testing.assert_close(batch_loss(spec, both, batch * 2, 2.0), torch.tensor((0.25 + 4 + 0.25 + 9) / 4 + 2.0))


def test_an_unknown_label_of_a_set_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="example 1 has the label 'plant', expected one of animal"):
        batch_of(tokenizer, [TextExample("a", ("plant",))], HeadSpec("classify", KINDS, problem_type=MULTI))


def test_a_fresh_head_begins_with_frequencies(tokenizer: Tokenizer, tmp_path: Path, capsys: Any) -> None:
    write_checkpoint(bundles.checkpoint(tokenizer, {"old": HeadSpec("classify", ["a", "b"])}), tmp_path)
    sets: dict[str, Any] = {
        "kinds": [TextExample("a", ("x",)), TextExample("b", ("x", "y")), TextExample("c", "x")],
        "stars": [TextExample("a", "1"), TextExample("b", 99.5)],
    }
    heads = {name: HeadRecipe("classify", ["f"], max_length=64) for name in sets}
    made = prepare(FinetuneRecipe(str(tmp_path), heads), sets)
    biases: dict[str, Any] = {name: made.heads[name].module.classifier.bias.detach() for name in heads}  # type: ignore[union-attr,operator]
    assert expit(biases["kinds"].numpy()) == pytest.approx([4 / 5, 2 / 5])
    assert biases["stars"].tolist() == [50.25]
    assert [example.label for example in sets["kinds"]] == [("x",), ("x", "y"), ("x",)]
    assert "heads.stars: the numbers have a standard deviation of 49.2" in capsys.readouterr().err


def test_a_cross_encoder_goes_on_with_its_label(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_checkpoint(bundles.checkpoint(tokenizer, {"rank": HeadSpec("pair", ["relevant"])}), tmp_path)
    recipe = FinetuneRecipe(str(tmp_path), {"rank": HeadRecipe("pair", ["f"], max_length=64)})
    before = read_checkpoint(tmp_path).heads["rank"].module.state_dict()
    made = prepare(recipe, {"rank": [PairExample("a", "b", ("relevant",)), PairExample("a", "c", ())]})
    torch.testing.assert_close(made.heads["rank"].module.state_dict(), before, rtol=0, atol=0)
    assert made.heads["rank"].spec.problem_type == MULTI
    numbers = prepare(recipe, {"rank": [PairExample("a", "b", 0.5)]})
    assert numbers.fresh == {"rank"} and numbers.heads["rank"].spec.problem_type == "regression"
    with pytest.raises(DataError, match="has only the label relevant, expected two or more"):
        prepare(recipe, {"rank": [PairExample("a", "b", "relevant")]})


def test_a_number_is_named_after_its_column(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_checkpoint(bundles.checkpoint(tokenizer, {"old": HeadSpec("classify", ["a", "b"])}), tmp_path)
    for columns, name in (({"label": "stars"}, "stars"), ({}, "score")):
        recipe = FinetuneRecipe(str(tmp_path), {"mine": HeadRecipe("classify", ["f"], max_length=64, columns=columns)})
        made = prepare(recipe, {"mine": [TextExample("a", 0.5), TextExample("b", 1.0)]})
        assert made.heads["mine"].spec.labels == [name]


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (HeadRecipe("tag", ["f"], problem_type=MULTI), "problem_type is multi_label_classification, but only classify"),
        (HeadRecipe("pair", ["f"], labels=["a", "b"], problem_type="regression"), "but a regression has one"),
    ],
)
def test_a_recipe_that_makes_no_sense(head: HeadRecipe, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        FinetuneRecipe("base", {"mine": head})


def test_one_temperature_for_the_decisions_of_all_labels() -> None:
    generator = np.random.default_rng(0)
    sure = generator.normal(0, 2, (400, 5))
    gold = generator.random(sure.shape) < expit(sure)
    logits, labels = decisions(3 * sure, gold)
    assert logits.shape == (2000, 2) and labels.sum() == gold.sum()
    assert fit_temperature(logits, labels) == pytest.approx(3, rel=0.15)


def test_a_threshold_has_the_best_f1_of_all() -> None:
    generator = np.random.default_rng(1)
    truth = generator.random(200) < 0.2
    scores = np.round(np.clip(0.3 * truth + generator.random(200) * 0.6, 0, 1), 2)
    chosen = best_threshold(scores, truth)
    assert chosen is not None
    best = max(f1_score(truth, scores >= limit) for limit in np.unique(scores))
    assert f1_score(truth, scores >= chosen) == best and chosen not in scores
    assert best_threshold(scores[:30], truth[:30]) is None
