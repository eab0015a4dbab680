"""Locks and partial files: one command at a time in a folder, and nothing left of a killed one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from followyourpose.common.files import LOCK, locked, new_folder

HOLD = "import sys, time; from pathlib import Path; from followyourpose.common.files import locked, new_folder\n"


def holder(folder: Path, context: str) -> subprocess.Popen:
    """Start a process that holds a folder's lock until it is killed."""
    code = f"{HOLD}with {context}(Path({str(folder)!r})):\n    print('held', flush=True)\n    time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("context", [locked, new_folder])
def test_a_folder_takes_one_command_at_a_time_and_the_next_after_a_kill(tmp_path: Path, context: type) -> None:
    folder = tmp_path / "out"
    process = holder(folder, context.__name__)
    with pytest.raises(ValueError, match=f"{folder}: another command is writing there"), context(folder):
        pass
    process.kill()
    process.wait()
    with context(folder) as written:
        ((written or folder) / "a.txt").write_text("a")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["out", "out/a.txt"]


def test_a_folder_into_which_nothing_is_written_does_not_stay(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "runs" / "one"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_command_left_is_removed_and_what_others_have_is_not(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in (".a.json.12.partial", ".a.12.partial.mp4", "movie.mp4.partial", ".hidden", LOCK):
        (tmp_path / name).write_text("half")
        (tmp_path / "in" / name).write_text("half")
    (tmp_path / ".folder.7.partial").mkdir()
    with locked(tmp_path):
        names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [".hidden", LOCK, "in", "movie.mp4.partial"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [".hidden", LOCK, "movie.mp4.partial"]


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="the administrator may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="out: cannot be written"), locked(tmp_path / "out"):
        pass


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for context in (locked, new_folder):
        with pytest.raises(ValueError, match="out: (cannot be written|is there already)"), context(tmp_path / "out"):
            pass
