"""The keypoints file: written clips are read back, faults are named with their place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: cannot be read"):
        read_keypoints(tmp_path / "none.json")
