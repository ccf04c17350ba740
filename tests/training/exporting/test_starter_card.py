"""If these fail, README, the starter's card and its parity.json give different figures."""

import json
import re
from pathlib import Path

import pytest

from models.bundle import read_bundle
from training.exporting.front_matter import split_card
from training.exporting.model_card import model_card, text_of

ROOT = Path(__file__).parents[3]
STARTER = ROOT / "models" / "starter"
CARD = (STARTER / "README.md").read_text(encoding="utf8")
README = (ROOT / "README.md").read_text(encoding="utf8")
TEXT = (ROOT / "training" / "recipes" / "starter.md").read_text(encoding="utf8")
HEADS = list(read_bundle(STARTER).manifest.heads)

Row = list[str]


def table(page: str, title: str) -> list[Row]:
    """The rows of the tables of a section."""
    section = re.split(r"^## ", page.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def numbers(text: str) -> set[str]:
    """The numbers of a text, each as it would be without a zero at its end; names such as BERT-base have none."""
    found = re.findall(r"(?<![\w.])\d[\d,.]*(?!\w)", re.sub(r"[A-Za-z]\S*", " ", text))
    plain = [number.rstrip(".,").replace(",", "") for number in found]
    return {f"{float(number):g}" if re.fullmatch(r"\d+(\.\d+)?", number) else number for number in plain}


def of_the_starter(row: Row) -> str | None:
    """The head that a row of README is about."""
    named = re.match(r"`([a-z-]+)`", row[0])
    return named[1] if named and named[1] in HEADS else None


ROWS = [row for row in table(README, "Figures") if of_the_starter(row)]


def test_readme_has_figures_of_the_starter() -> None:
    assert len(ROWS) >= 8


def same_data(row: Row, figures: list[Row]) -> list[Row]:
    """The rows of the card about the head and the data of a row of README, by the counts of examples."""
    own = [entry for entry in figures if entry[0] == of_the_starter(row)]
    return [entry for entry in own if numbers(row[0]) & numbers(entry[1])] or own


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_figure_of_readme_is_in_the_card(row: Row) -> None:
    (card,) = same_data(row, table(CARD, "Figures"))[:1]
    known = numbers(" ".join(card[1:]))
    assert numbers(row[1]) and numbers(row[1]) <= numbers(card[3]), (row[1], card[3])
    assert numbers(row[2]) <= known, (row[2], card)


def test_a_figure_that_differs_is_found() -> None:
    figures = table(CARD, "Figures")
    row = ["`sentiment`, SST-2 test (872)", "90.6 %", "chance 50.9"]
    assert same_data(row, figures)[0][0] == "sentiment" and not numbers(row[1]) <= numbers(figures[2][3])
    assert numbers("BERT-base 92.7, version 0.3.4 75.80 %, 1,924") == {"92.7", "0.3.4", "75.8", "1924"}


def test_the_loss_of_int8_in_readme_is_the_largest_in_parity_json() -> None:
    heads = json.loads((STARTER / "parity.json").read_text(encoding="utf8"))["precisions"]["int8"]["heads"]
    measured = {name: head["validation"] for name, head in heads.items() if "validation" in head}
    (row,) = (row for row in table(README, "Figures") if "int8 against PyTorch" in row[0])
    worst = max(measured, key=lambda name: measured[name]["loss"])
    loss, error = measured[worst]["loss"], measured[worst]["error"]
    assert f"{loss:.2f} points" in row[1] and f"`{worst}`, ± {error:.2f}" in row[1], row


def test_the_card_is_what_this_program_writes_from_the_bundle() -> None:
    figures = json.loads((STARTER / "parity.json").read_text(encoding="utf8"))
    again = "run python -m training card models/starter --card training/recipes/starter.md"
    assert model_card(read_bundle(STARTER).manifest, figures, STARTER, TEXT) == CARD, again
    assert text_of(CARD) == split_card(TEXT)[1].strip()


def test_figures_on_all_examples_equal_those_of_parity_json() -> None:
    """fill-mask is measured on the same 100 articles by both."""
    heads = json.loads((STARTER / "parity.json").read_text(encoding="utf8"))["precisions"]["int8"]["heads"]
    scores = heads["fill-mask"]["validation"]["scores"]
    (row,) = (row for row in table(CARD, "Figures") if row[0] == "fill-mask")
    assert numbers(row[3]) == {f"{100 * scores[name]:.1f}" for name in ("accuracy", "accuracy_top5")}
