"""Would break: a picture of many classes cannot be read, or shows other classes than the most confused."""

import numpy as np
import pytest

from training.evaluation.report_figures import NONE, ClassFigures, Confused, Report
from training.evaluation.report_plots import _with_others, interval, most_confused


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
