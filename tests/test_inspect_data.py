"""`followyourpose inspect` of a data set: the samples that training would read, and those that it would not."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.laion_pose import Annotation, annotate
from followyourpose.cli.main import main
from followyourpose.inspection.datasets import describe_data, is_dataset
from followyourpose.pose.skeleton import LEFT, MIDDLE, RIGHT
from followyourpose.puppets.dataset import write_dataset
from tests.downloads import jpeg, sample, write_tar


@pytest.fixture(scope="module")
def puppets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("puppets"), images=20, clips=3, clip_frames=6)


def test_shards_are_counted_measured_and_shown_with_skeletons(puppets: Path, tmp_path: Path) -> None:
    text = describe_data(puppets / "images", tmp_path / "new" / "sheet.png", samples=6)
    assert "images: 20 images" in text and "left out when read: nothing dropped" in text
    assert "width 128 to 128 (median 128)" in text and "joints seen: nose" in text and "people: 1 in" in text
    picture = np.asarray(Image.open(tmp_path / "new" / "sheet.png")).reshape(-1, 3)
    for color in (LEFT, RIGHT, MIDDLE):
        assert (picture == color).all(1).sum() > 50


def test_clips_are_shown_by_their_first_middle_and_last_frame(puppets: Path, tmp_path: Path) -> None:
    text = describe_data(puppets / "clips", tmp_path / "sheet.png", samples=2)
    assert "clips: 3 clips" in text and "6 to 6 (median 6) frames" in text and "joints" not in text
    assert Image.open(tmp_path / "sheet.png").width == 3 * 192


def test_the_same_seed_shows_the_same_samples(puppets: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        describe_data(puppets / "images", tmp_path / f"{name}.png", samples=4, seed=seed)
    first, same, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == same != other


def test_drops_of_the_preparation_are_reported(tmp_path: Path) -> None:
    images = {str(i): sample(str(i), jpeg(np.full((64, 64, 3), 9 * i, np.uint8)), "danseuse 舞") for i in range(4)}
    images["4"] = sample("4", b"no image")
    person = np.random.default_rng(0).uniform(5, 60, (17, 3)) * [1, 1, 0] + [0, 0, 1]
    shard = write_tar(tmp_path / "in" / "00000.tar", images)
    annotate(shard, Annotation(tmp_path / "out", "fixed"), lambda frames: [[person] for _ in frames])
    text = describe_data(tmp_path / "out", tmp_path / "sheet.png")
    assert "when it was prepared: 5 read, 4 kept (80.0 %); dropped: 1 that cannot be decoded" in text
    assert "images: 4 images" not in text and "out: 4 images" in text


def test_a_sample_that_cannot_be_read_is_named(puppets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "good.mp4").write_bytes((puppets / "clips" / "000000.mp4").read_bytes())
    (folder / "bad.mp4").write_bytes(b"no video")
    rows = [{"video": f"{name}.mp4", "caption": name} for name in ("good", "bad")]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = describe_data(folder, tmp_path / "sheet.png")
    assert "2 samples, 1 of them unreadable" in text and "bad.mp4" in text and "picture of 1 sample:" in text


def test_a_manifest_of_images_and_a_single_shard_are_data_sets_too(puppets: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 48)).save(tmp_path / "0.png")
    row = {"image": "0.png", "caption": "one", "people": [{"keypoints": [[5, 5, 1]] * 17}], "width": 32, "height": 48}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    assert ": 1 image\n" in describe_data(tmp_path, tmp_path / "sheet.png")
    assert ": 20 images\n" in describe_data(puppets / "images" / "00000.tar", tmp_path / "sheet.png")


def test_the_verb_distinguishes_data_from_weights(
    puppets: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(puppets / "images"), "--samples", "2"]) == 0
    assert "picture of 2 samples: outputs/images-samples.png" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "images-samples.png").is_file()
    assert not is_dataset(tmp_path) and not is_dataset(tmp_path / "nothing")
    assert main(["inspect", "checkpoints/puppet"]) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sheet", "samples", "reason"),
    [("sheet.jpg", 1, "ends in .png"), ("sheet.png", 0, "at least 1"), ("file/sheet.png", 1, "cannot be written")],
)
def test_bad_arguments_are_one_error(puppets: Path, tmp_path: Path, sheet: str, samples: int, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=reason):
        describe_data(puppets / "images", tmp_path / sheet, samples)
