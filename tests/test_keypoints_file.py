"""The keypoints file: written clips are read back, faults are named with their place."""

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from followyourpose.pose import keypoints_file
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints, write_keypoints


def content() -> dict[str, Any]:
    joints = [[float(i), 2.0 * i, 0.5] for i in range(17)]
    return {"width": 64, "height": 48, "fps": 8, "frames": [[{"keypoints": joints}], [], [{"keypoints": joints}] * 2]}


def written(folder: Path, value: Any) -> Path:
    (folder / "keypoints.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder / "keypoints.json"


def test_a_written_clip_is_read_back(tmp_path: Path) -> None:
    people = [np.random.default_rng(i).uniform(0, (48, 48, 1), (17, 3)).astype(np.float32) for i in range(2)]
    write_keypoints(tmp_path / "k.json", ClipKeypoints(64, 48, 12.5, [people, [], people[:1]]))
    clip = read_keypoints(tmp_path / "k.json")
    assert (clip.width, clip.height, clip.fps) == (64, 48, 12.5)
    assert [len(frame) for frame in clip.frames] == [2, 0, 1]
    np.testing.assert_allclose(clip.frames[0], people, atol=1e-3)
    assert [file.name for file in tmp_path.iterdir()] == ["k.json"]


def test_identities_are_read_back(tmp_path: Path) -> None:
    person = np.zeros((17, 3), np.float32)
    write_keypoints(tmp_path / "k.json", ClipKeypoints(64, 48, 8, [[person], [], [person] * 2], [[3], [], [7, 3]]))
    assert read_keypoints(tmp_path / "k.json").ids == [[3], [], [7, 3]]
    assert read_keypoints(written(tmp_path, content())).ids is None


def test_a_clip_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frames\[0\]\[0\].keypoints"):
        write_keypoints(tmp_path / "k.json", ClipKeypoints(64, 48, 8, [[np.zeros((16, 3))]]))
    assert not list(tmp_path.iterdir())


def change(**changes: Any) -> dict[str, Any]:
    return content() | changes


def person(joints: Any) -> dict[str, Any]:
    return change(frames=[[], [{"keypoints": joints}]])


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("{", "not a JSON file"),
        ([], "got list, expected a mapping"),
        ({"width": 1}, "expected a mapping with width, height, fps, frames"),
        (change(extra=1), "extra"),
        (change(width=0), "width: got 0"),
        (change(height="48"), "height: got '48'"),
        (change(fps=True), "fps: got True"),
        (change(frames=[]), "frames: got none"),
        (change(frames={}), "frames: got dict, expected a list"),
        (change(frames=[[], {}]), r"frames[1]: got dict, expected a list"),
        (change(frames=[[], [{"joints": []}]]), "frames[1][0]: got ['joints']"),
        (change(frames=[[{"keypoints": [], "id": "a"}]]), "frames[0][0].id: got 'a', expected a whole number"),
        (change(frames=[[{"keypoints": [], "name": "a"}]]), "frames[0][0]: got ['keypoints', 'name']"),
        (person([[0, 0, 1]] * 16), "frames[1][0].keypoints: got shape (16, 3)"),
        (person([[0, 0, 1]] * 16 + [[0, 0]]), "frames[1][0].keypoints: got no table"),
        (person([["a", 0, 1]] * 17), "frames[1][0].keypoints: got no table"),
        (person([[0, float("nan"), 1]] * 17), "frames[1][0].keypoints: got a number that is not finite"),
        (person([[0, 0, 2]] * 17), "frames[1][0].keypoints: got a confidence outside of [0, 1]"),
    ],
)
def test_a_fault_is_named_with_file_and_place(tmp_path: Path, value: Any, place: str) -> None:
    path = written(tmp_path, value)
    with pytest.raises(ValueError) as error:
        read_keypoints(path)
    assert str(path) in str(error.value) and place in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    written(tmp_path, content()).write_bytes(b"\xef\xbb\xbf" + json.dumps(content()).encode())
    assert len(read_keypoints(tmp_path / "keypoints.json").frames) == 3


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.3, 0.4), (-0.2, 1.3), (-1.0, 1.0)])
def test_coordinates_as_shares_of_the_frame_are_refused(tmp_path: Path, low: float, high: float) -> None:
    shares = np.concatenate([np.random.default_rng(0).uniform(low, high, (17, 2)), np.full((17, 1), 0.9)], 1)
    with pytest.raises(ValueError, match="frames: got x and y from .* expected pixels of a 64 x 48 frame; normalised"):
        read_keypoints(written(tmp_path, person(shares.tolist())))
    pixels = shares * (64, 48, 1)
    for frames in ([[{"keypoints": pixels.tolist()}]], [[{"keypoints": each.tolist()} for each in (shares, pixels)]]):
        assert len(read_keypoints(written(tmp_path, change(frames=frames))).frames) == 1


def test_a_clip_without_a_seen_joint_may_have_any_coordinates(tmp_path: Path) -> None:
    assert len(read_keypoints(written(tmp_path, person([[0.5, 0.5, 0]] * 17))).frames) == 2
    assert read_keypoints(written(tmp_path, change(frames=[[], []]))).frames == [[], []]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"width": %s, "height": 4, "fps": 8, "frames": [[]]}' % ("9" * 400), "width: got 999"),
        ('{"width": 4, "height": 4, "fps": %s, "frames": [[]]}' % ("9" * 400), "fps: got 999"),
        ('{"width": 4, "height": Infinity, "fps": 8, "frames": [[]]}', "height: got inf"),
        (json.dumps(person([[10**400, 0, 1]] * 17)), "frames[1][0].keypoints: got no table of numbers"),
        (json.dumps(person([[0, 1e300, 1]] * 17)), "frames[1][0].keypoints: got a number that is not finite"),
        ("9" * 5000, "not a JSON file"),
        ("[" * 100_000, "nested too deeply"),
        ('{"keypoints":' * 100_000, "nested too deeply"),
        ('{"width":4,"height":4,"fps":8,"frames":[%s[]]}' % ("[]," * 1_000_000), "frames: got 1000001, expected"),
        ('{"width":4,"height":4,"fps":8,"frames":[%s[]]}' % ("[]," * 10_000_000), "got 10,000,003 lists and mappings"),
        ('{"width":4,"height":4,"fps":8,"frames":[%s{}]}' % ("{}," * 10_000_000), "got 10,000,003 lists and mappings"),
    ],
)
def test_hostile_files_are_refused_in_one_line_and_soon(tmp_path: Path, text: str, reason: str) -> None:
    path, start = written(tmp_path, text), time.monotonic()
    with pytest.raises(ValueError) as error:
        read_keypoints(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and reason in message and "\n" not in message and len(message) < 400
    assert time.monotonic() - start < 10  # tenths of one on a free machine


def test_a_long_clip_takes_little_more_memory_than_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keypoints become arrays while the file is read; as lists they would take ten times as much."""
    joints = [[round(3.7 * i, 3), round(2.9 * i + 5.125, 3), 0.875] for i in range(17)]
    text = json.dumps(change(frames=[[{"keypoints": joints}]] * 2_000))
    monkeypatch.setattr(keypoints_file, "read_text", lambda path: text)
    tracemalloc.start()
    clip = read_keypoints("long.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clip.frames) == 2_000 and peak < 3 * len(text)


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    random, good, refused = np.random.default_rng(0), json.dumps(content()).encode(), 0
    for _ in range(300):
        damaged = bytearray(good)
        for place in random.integers(0, len(good), random.integers(1, 4)):
            damaged[place] = random.choice(np.frombuffer(b'[]{}",:0e-.N\x00\xff\n9', np.uint8))
        (tmp_path / "k.json").write_bytes(damaged)
        try:
            read_keypoints(tmp_path / "k.json")
        except ValueError as error:
            assert str(tmp_path / "k.json") in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 200


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: cannot be read"):
        read_keypoints(tmp_path / "none.json")
