"""If these fail, a container starts more lanes than it has cores, or uses more memory than it may."""

import os
from pathlib import Path

import pytest

from models.cgroup import memory_limit, usable_cores

GIB = 1 << 30
UNLIMITED = "9223372036854771712"


def groups(root: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write the files of control groups, and what a process of one of them is told; return both places."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    told = root / "membership"
    told.write_text(membership)
    return root, told


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("", {}, 64),
        ("", {"cpu.max": "max 100000"}, 64),
        ("", {"cpu.max": "200000 100000"}, 2),
        ("", {"cpu.max": "150000 100000"}, 2),
        ("", {"cpu.max": "10000 100000"}, 1),
        ("", {"cpu.max": "99900000 100000"}, 64),
        ("", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000", "cpu.max": "max 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "200000 100000"}, 1),
        ("0::/a/b\n", {"a/other/cpu.max": "100000 100000"}, 64),
        ("0::/elsewhere\n", {"cpu.max": "500000 100000"}, 5),
        ("0::/../../a\n", {"cpu.max": "500000 100000"}, 5),
        (
            "9:name=systemd:/x\n5:cpu,cpuacct:/a/b\n0::/\n",
            {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}
            | {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000"},
            4,
        ),
    ],
)
def test_cores_are_those_of_the_control_group_and_all_above(
    membership: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert usable_cores(*groups(tmp_path, membership, files)) == cores


def test_without_control_groups_or_affinity_it_is_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert usable_cores(tmp_path, tmp_path / "none") == 10


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("", {}, 8 * GIB),
        ("", {"memory.max": "max"}, 8 * GIB),
        ("", {"memory.max": str(GIB)}, GIB),
        ("", {"memory.max": str(9 * GIB)}, 8 * GIB),
        ("", {"memory/memory.limit_in_bytes": UNLIMITED}, 8 * GIB),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": str(2 * GIB)}, 2 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": str(3 * GIB), "memory.max": str(4 * GIB)}, 3 * GIB),
    ],
)
def test_memory_is_that_of_the_control_group_and_all_above(
    membership: str, files: dict[str, str], limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8 * GIB // 4096}.__getitem__)
    assert memory_limit(*groups(tmp_path, membership, files)) == limit
