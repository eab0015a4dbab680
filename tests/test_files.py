"""Locks and partial files: one command at a time in a folder, and nothing left of a killed one."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from followyourpose.common.files import LOCK, atomic_write, json_lines, locked, new_folder

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


@pytest.mark.parametrize("context", [locked, new_folder])
def test_a_full_disk_is_reported_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: type
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        pytest.raises(ValueError, match=rf"^{tmp_path / 'out'}: cannot be written \(No space left on device\)$"),
        context(tmp_path / "out") as work,
    ):
        atomic_write((work or tmp_path / "out") / "a.json", "{}")
    assert not (tmp_path / "out").exists()


# ---- JSON lines ------------------------------------------------------------------------------------------------------


def test_only_a_line_feed_ends_a_line_of_json(tmp_path: Path) -> None:
    rows = [{"prompt": "a\u2028b\x85c\x0bd"}, ["é"], 3]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(lines).encode())
    assert list(json_lines(file)) == [(1, rows[0]), (3, rows[1]), (5, rows[2])]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}\n{", r"line 2: not JSON \("),
        (b"{}\n\n\xff", r"line 3: not JSON \('utf-8' codec"),
        (b"{}\n" + b"1" * 5000, r"line 2: not JSON \(.*digits"),
        (b"{}\n" + b"[" * 100_000, r"line 2: not JSON that can be read \(nested too deeply\)"),
        (b'{}\n"' + b"a" * 300_000 + b'"', r"line 2: not JSON \(longer than 200,000 bytes\)"),
    ],
)
def test_a_line_that_is_no_json_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"rows\.jsonl: {reason}"):
        list(json_lines(tmp_path / "rows.jsonl", most=200_000))
    with pytest.raises(ValueError, match=r"nothing: cannot be read"):
        list(json_lines(tmp_path / "nothing"))
