"""Files are there whole or not at all, readable by whom the umask lets, and nothing of a killed writer stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from feature_repo.files import DiskFull, replace_file, write_atomically

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_are_what_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "note.json", "{}")
        replace_file(tmp_path / "rows.parquet", pl.DataFrame({"a": [1]}).write_parquet)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in sorted(tmp_path.iterdir())] == [mode, mode]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from feature_repo.files import replace_file\n"
        "def die(path): path.write_text('half'); os._exit(9)\n"
        "replace_file(Path(sys.argv[1]), die)"
    )
    path = tmp_path / "rows.parquet"
    assert subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False).returncode == 9
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    write_atomically(tmp_path / "other.json", "{}")
    assert names(tmp_path) == ["other.json"]


def test_what_another_one_is_writing_stays(tmp_path):
    def write(temporary: Path) -> None:
        write_atomically(tmp_path / "other.json", "{}")
        temporary.write_text("whole")

    replace_file(tmp_path / "slow.txt", write)
    assert names(tmp_path) == ["other.json", "slow.txt"]


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "note"
    write_atomically(path, "before")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        replace_file(path, fail)
    assert (path.read_text(), names(tmp_path)) == ("before", ["note"])


@pytest.mark.parametrize("write", [lambda _: Path("/dev/full").write_text("x"), lambda _: _full_parquet()])
def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path, write):
    path = tmp_path / "note"
    write_atomically(path, "before")
    with pytest.raises(DiskFull, match=r"no room on the disk for .*note .*Make room, then run the same again"):
        replace_file(path, write)
    assert (path.read_text(), names(tmp_path)) == ("before", ["note"])


def _full_parquet() -> None:
    pl.DataFrame({"a": [1]}).write_parquet("/dev/full")
