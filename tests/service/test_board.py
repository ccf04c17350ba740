"""If this breaks, fronts refuse requests by figures that are wrong, or take a dead engine process for a live one."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.admission import Load
from service.board import Board


def test_readers_see_what_was_written_last(tmp_path: Path) -> None:
    path = tmp_path / "device-0.board"
    with pytest.raises(OSError, match="device-0.board"):
        Board.open(path)
    written = Board.create(path)
    read = Board.open(path)
    assert read.load == Load(0, 0, 0, 0, 0, 0, 0)
    for load in (Load(1, 20, 10, 384, 1e-5, 6e-5, 0.002), Load(0, 0, 0, 0, 2e-5, 0, 0.001)):
        written.show(load)
        assert read.load == load
    with pytest.raises((TypeError, ValueError)):
        read.show(load)


def test_a_new_process_has_a_new_board(tmp_path: Path) -> None:
    path = tmp_path / "device-0.board"
    old = Board.create(path)
    reader = Board.open(path)
    Board.create(path).show(Load(1, 1, 1, 1, 1, 1, 1))
    old.show(Load(2, 2, 2, 2, 2, 2, 2))
    assert reader.load.rows == 2 and Board.open(path).load.rows == 1


def test_silence_is_the_time_since_the_last_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("service.board.time", SimpleNamespace(monotonic=lambda: now))
    board = Board.create(tmp_path / "device-0.board")
    assert board.silence == 0
    now += 7
    assert board.silence == 7
    board.beat()
    assert board.silence == 0
