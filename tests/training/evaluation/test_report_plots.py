"""If these fail, a picture of many classes is unreadable, or does not show the most confused classes."""

import numpy as np
import pytest

from training.evaluation.report_figures import NONE, Bin, ClassFigures, Confused, Report
from training.evaluation.report_plots import (
    MAX_CLASSES,
    MAX_NAME,
    _confusion,
    _reliability,
    _residuals,
    _with_others,
    interval,
    most_confused,
    shown_names,
)


def report(confused: list[Confused], support: dict[str, int]) -> Report:
    classes = [ClassFigures(name, 0.5, 0.5, 0.5, count, count, count // 2) for name, count in support.items()]
    return Report("intent", "classify", {}, classes, confused)


def test_a_large_class_does_not_fill_the_picture() -> None:
    support = {"other": 1000, **{f"c{number}": 20 for number in range(30)}}
    large = [Confused("other", f"c{number}", 25) for number in range(20)]
    small = [Confused("c20", "c21", 8), Confused("c22", "c23", 7), Confused("c24", NONE, 30)]
    chosen = most_confused(report([*large, *small], support))
    assert chosen[:4] == ["c20", "c21", "c22", "c23"] and len(chosen) == 20 and NONE not in chosen


def test_what_is_left_out_is_summed_up() -> None:
    counts = np.arange(16).reshape(4, 4)
    assert _with_others(counts, [0, 2]).tolist() == [[0, 2, 4], [8, 10, 20]]


def test_intervals_stay_between_0_and_1() -> None:
    assert interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # R: prop.test(50, 100, correct = FALSE)
    assert interval(0.0, 1)[0] == pytest.approx(0, abs=1e-12) and interval(1.0, 3)[1] <= 1 + 1e-12


def test_150_classes_stay_readable() -> None:
    support = {f"intent_{number}": 10 for number in range(150)}
    confused = [Confused(f"intent_{number}", f"intent_{149 - number}", 9) for number in range(75)]
    axis = _confusion(report(confused, support)).axes[0]
    rows = [label.get_text() for label in axis.get_yticklabels()]
    assert len(rows) == MAX_CLASSES and "20 most confused of 150" in axis.figure.get_suptitle()
    assert rows[:2] == ["intent_0", "intent_149"]  # confused pairs stand side by side
    assert [label.get_text() for label in axis.get_xticklabels()] == [*rows, "(others)"]
    assert len(axis.patches) == len(rows)  # right answers are framed


def test_long_names_are_shortened_and_stay_different() -> None:
    ends = ["received", "lost"]
    names = [f"account management / billing / refund was {end}" for end in ends]
    shown = list(shown_names(report([], dict.fromkeys(names, 1))).values())
    assert all(len(name) <= MAX_NAME and name.endswith(end) for name, end in zip(shown, ends, strict=True))
    figure = _confusion(report([], dict.fromkeys(names, 1)))
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert boxes[0].x1 <= boxes[1].x0


def test_names_that_the_font_cannot_write_or_that_look_alike_become_numbers(recwarn: pytest.WarningsRecorder) -> None:
    alike = [f"a{'x' * 20}{number}{'y' * 20}" for number in range(2)]
    one = report([], dict.fromkeys(["退款", "plain", *alike], 1))
    assert list(shown_names(one).values()) == ["class 1", "plain", "class 3", "class 4"]
    figure = _confusion(one)
    figure.draw_without_rendering()
    assert "“class 1” is the first in report.json" in figure.get_suptitle() and not recwarn.list


def test_legends_cover_no_curve_and_axes_have_names() -> None:
    bins = [Bin(0.1 * number, 0.1 * number + 0.1, 10, 0.1 * number + 0.05, 0.9) for number in range(10)]
    numbers = [(float(number), number + 0.5) for number in range(10)]
    figures = [
        _reliability(Report("intent", "classify", {}, bins=bins)),
        _residuals(Report("stars", "classify", {}, numbers=numbers)),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        for axis in figure.axes:
            legend = axis.get_legend()
            assert axis.get_ylabel() and (axis.get_xlabel() or axis is figure.axes[0])
            assert legend is None or legend.get_window_extent().y0 >= axis.get_window_extent().y1


def test_large_counts_fit_their_cell() -> None:
    axis = _confusion(report([Confused("a", "b", 12_345)], {"a": 24_690, "b": 8})).axes[0]
    assert {text.get_text() for text in axis.texts} == {"12k", "4"}


def test_many_classes_without_a_confused_pair_are_the_most_frequent_ones() -> None:
    """A head that makes no mistake on more classes than a picture has room for."""
    support = {f"intent_{number}": 1 + number for number in range(60)}
    axis = _confusion(report([], support)).axes[0]
    rows = [label.get_text() for label in axis.get_yticklabels()]
    assert rows == [f"intent_{number}" for number in range(59, 39, -1)]
    assert "no confused classes; the 20 most frequent of 60 classes" in axis.figure.get_suptitle()
