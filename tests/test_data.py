"""Training data: files are read or refused by name, and every sample and every order follows from numbers."""

import io
import json
import os
import sys
import tarfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from followyourpose.config import DataConfig
from followyourpose.data.batch import Clips, EndlessBatches, collate, to_pixels, to_skeleton
from followyourpose.data.image_pose import ImagePoseShards
from followyourpose.data.labels import STRINGS, Rules, only_inside
from followyourpose.data.sources import layout_of, open_data
from followyourpose.data.video_clips import VideoClips
from followyourpose.data.video_io import VideoError, write_video
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.skeleton import flip_keypoints
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training.feed import open_source
from tests.downloads import write_tar

SIZE = (16, 24)  # H, W


def keypoints(people: int, seed: int = 0) -> np.ndarray:
    """Random people (people, 17, 3) within SIZE, every joint seen."""
    rng = np.random.default_rng(seed)
    places = rng.random((people, 17, 2)) * (SIZE[1] - 1, SIZE[0] - 1)
    return np.concatenate([places, np.ones((people, 17, 1))], -1).round(2)


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", SIZE[::-1], (shade, shade, shade)).save(file, "JPEG", quality=95)
    return file.getvalue()


def parts(index: int, people: int = 1) -> dict[str, bytes]:
    """The three files of image `index`: its shade is 10 x index, its caption "image <index>"."""
    people_json = [{"keypoints": person.tolist()} for person in keypoints(people, index)]
    label = {"width": SIZE[1], "height": SIZE[0], "people": people_json}
    return {"jpg": jpeg(10 * index), "txt": f"image {index}\n".encode(), "json": json.dumps(label).encode()}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards, of three images and of two; image i shows i + 1 people."""
    write_tar(tmp_path / "00000.tar", {f"{i:04d}": parts(i, i + 1) for i in range(3)})
    write_tar(tmp_path / "00001.tar", {f"{i:04d}": parts(i, i + 1) for i in range(3, 5)})
    return tmp_path


class Frames:
    """A source of clips with given lengths; every pixel of frame i has the value i."""

    def __init__(self, *lengths: int, people: int | None = None) -> None:
        self.lengths, self.people = lengths, people

    def __len__(self) -> int:
        return len(self.lengths)

    def num_frames(self, index: int) -> int:
        return self.lengths[index]

    def name(self, index: int) -> str:
        return f"clip {index}"

    def label(self, index: int, frames: Sequence[int]) -> tuple[str, np.ndarray | None]:
        return f"clip {index}", None if self.people is None else keypoints(self.people, index).astype(np.float32)

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        return np.stack([np.full((*SIZE, 3), frame, np.uint8) for frame in frames])


class Steps(Frames):
    """The same with pixels that grow to the right by 8, by which each names its column."""

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        columns = np.arange(SIZE[1], dtype=np.uint8)[None, None, :, None] * 8
        return np.broadcast_to(columns, (1, *SIZE, 3)) + super().read(index, frames)


class Latents(Frames):
    """The same with latents (8, f, 2, 3) in place of pixels, as a cache serves them."""

    def read(self, index: int, frames: Sequence[int]) -> dict[str, Tensor]:
        return {"moments": torch.tensor(frames).float()[None, :, None, None].expand(8, -1, 2, 3)}


def frames_of(sample: dict) -> list[int]:
    """Return the numbers of a `Frames` clip's frames in a sample."""
    return ((sample["pixels"][0, :, 0, 0] + 1) * 127.5).round().int().tolist()


class Broken(Frames):
    """A source of which some samples cannot be read."""

    def __init__(self, length: int, bad: Sequence[int], **options: int) -> None:
        super().__init__(*[9] * length, **options)
        self.bad = set(bad)

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        if index in self.bad:
            raise VideoError(f"clip {index}: cannot be read\nat all")
        return np.stack([np.full((*SIZE, 3), index, np.uint8) for _ in frames])


# ---- stage 1: images with captions and keypoints ---------------------------------------------------------------------


def test_images_of_all_shards_come_in_order_with_caption_and_keypoints(shards: Path) -> None:
    source = ImagePoseShards(shards)
    assert len(source) == 5
    for index in range(5):
        caption, people = source.label(index, [0])
        assert caption == f"image {index}" and people.shape == (index + 1, 17, 3) and people.dtype == np.float32
        np.testing.assert_array_equal(people, keypoints(index + 1, index).astype(np.float32))
        image = source.read(index, [0])
        assert image.shape == (1, *SIZE, 3) and image.dtype == np.uint8 and abs(int(image.mean()) - 10 * index) <= 2
        assert source.num_frames(index) == 1


@pytest.mark.parametrize("limit", [2, 4, 100])
def test_a_limit_takes_the_first_images(shards: Path, limit: int) -> None:
    source = ImagePoseShards(shards, limit)
    assert [source.label(i, [0])[0] for i in range(len(source))] == [f"image {i}" for i in range(min(limit, 5))]


@pytest.mark.parametrize("missing", ["jpg", "txt", "json"])
def test_an_incomplete_image_is_left_out_and_named(shards: Path, missing: str) -> None:
    files = parts(7)
    del files[missing]
    write_tar(shards / "00002.tar", {"0006": parts(6), "0007": files})
    source = ImagePoseShards(shards)
    assert len(source) == 6
    assert str(source.dropped) == f"1 without {missing.replace('jpg', 'image')} ({shards / '00002.tar'}: 0007)"


def test_members_may_lie_in_a_folder_of_the_tar(tmp_path: Path) -> None:
    """`tar -C folder -cf shard.tar .` names them so."""
    write_tar(tmp_path / "0.tar", {f"./{i}": parts(i) for i in range(2)})
    assert [ImagePoseShards(tmp_path).label(i, [0])[0] for i in range(2)] == ["image 0", "image 1"]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "PNG", "webp"])
def test_images_may_have_any_of_the_usual_types(tmp_path: Path, suffix: str) -> None:
    files = parts(3)
    image = io.BytesIO()
    Image.open(io.BytesIO(files.pop("jpg"))).save(image, {"jpg": "jpeg"}.get(suffix, suffix))
    write_tar(tmp_path / "0.tar", {"0003": files | {suffix: image.getvalue()}})
    assert abs(int(ImagePoseShards(tmp_path).read(0, [0]).mean()) - 30) <= 2


@pytest.mark.parametrize("content", [b"not a tar" * 100, b""])
def test_a_file_that_is_no_tar_is_named_and_left_out(shards: Path, content: bytes) -> None:
    (shards / "00002.tar").write_bytes(content)
    source = ImagePoseShards(shards)
    assert len(source) == 5 and source.dropped.names == {"shards cut off or no tar": [str(shards / "00002.tar")]}


def test_whole_images_of_a_cut_shard_are_kept_and_the_shard_named_once(shards: Path) -> None:
    """Wherever it was cut: within a header, within a file, or between two."""
    whole = (shards / "00001.tar").read_bytes()
    with tarfile.open(shards / "00001.tar") as tar:
        end = tar.getmember("0003.json").offset_data + tar.getmember("0003.json").size
    for cut in range(0, end + 1000, 100):
        (shards / "00001.tar").write_bytes(whole[:cut])
        source = ImagePoseShards(shards)
        assert len(source) == (4 if cut >= end else 3)
        assert source.dropped["shards cut off or no tar"] == 1
        assert source.dropped.names["shards cut off or no tar"] == [str(shards / "00001.tar")]
        assert [source.read(i, [0]).shape for i in range(len(source))] == [(1, *SIZE, 3)] * len(source)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \.tar shard"):
        ImagePoseShards(tmp_path)


@pytest.mark.parametrize(("images", "limit"), [(0, None), (2, 0)])
def test_data_without_an_image_is_refused(tmp_path: Path, images: int, limit: int | None) -> None:
    write_tar(tmp_path / "0.tar", {f"{i}": parts(i) for i in range(images)})
    with pytest.raises(ValueError, match="no image"):
        ImagePoseShards(tmp_path, limit)


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("json", b"{"), ("json", b"{}"), ("json", b"5"), ("json", b'{"people": [{"keypoints": [[1, 2]]}]}'),
        ("json", b'{"people": [], "width": 0, "height": 5}'), ("txt", b"\xff"), ("json", b"[" * 100_000),
        ("json", b'{"people": [], "width": Infinity, "height": 5}'), ("json", b'{"people": {"a": 1}}'),
        ("json", b'{"people": [], "width": NaN, "height": 5}'), ("json", b""),
        ("json", b'{"people": [], "width": 1e300, "height": 5}'),
        ("json", b'{"people": [], "width": 1' + b"0" * 5000 + b', "height": 5}'),
        ("json", b'{"people": [{"keypoints": [[1' + b"0" * 400 + b", 0, 1]" + b", [0, 0, 1]" * 16 + b"]}]}"),
        ("json", b'{"width": 9, "height": 9, "people": [{"keypoints": [[0, 0, 1]' + b", [0.5, 0.9, 1]" * 16 + b"]}]}"),
    ],
)  # fmt: skip
def test_an_image_whose_label_cannot_be_read_is_left_out_and_named(tmp_path: Path, part: str, content: bytes) -> None:
    write_tar(tmp_path / "0.tar", {"0001": parts(1) | {part: content}})
    with pytest.raises(ValueError, match=r"no image .*1 without a readable caption and keypoints \(.*0\.tar: 0001\)"):
        ImagePoseShards(tmp_path)
    write_tar(tmp_path / "1.tar", {"0002": parts(2)})
    assert len(ImagePoseShards(tmp_path)) == 1


def test_numbers_that_are_no_pixels_have_no_confidence(tmp_path: Path) -> None:
    points = ", ".join(["[1e39, 0, 1]", "[-1e39, 0, 1]", "[Infinity, 0, 1]", "[3, 4, 1]"] + ["[1, 2, 1]"] * 13)
    write_tar(tmp_path / "0.tar", {"0": parts(0) | {"json": f'{{"people": [{{"keypoints": [{points}]}}]}}'.encode()}})
    people = ImagePoseShards(tmp_path).label(0, [0])[1]
    assert np.isfinite(people).all() and people[0, :4, 2].tolist() == [0, 0, 0, 1]


def write_members(path: Path, *members: tuple[str, bytes]) -> Path:
    """Write a tar in which names may come again."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def members(key: str, index: int, *left_out: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.{part}", content) for part, content in parts(index).items() if part not in left_out]


def test_images_with_one_key_are_left_out_and_counted(tmp_path: Path) -> None:
    """Whatever follows what: a picture gets no other's caption, and none is lost without a word."""
    good = members("good", 1)
    write_members(tmp_path / "0.tar", *members("a", 2), *members("a", 3), *good, *members("a", 4))
    write_members(tmp_path / "1.tar", *members("b", 2), *members("b", 3, "txt"), *good)
    write_members(tmp_path / "2.tar", *members("c", 2, "jpg", "json"), *members("c", 3), *good)
    source = ImagePoseShards(tmp_path)
    assert [source.label(i, [0])[0] for i in range(len(source))] == ["image 1"] * 3
    assert source.dropped == {"with a key that comes twice": 3 + 2 + 2}
    assert source.dropped.names["with a key that comes twice"][3] == f"{tmp_path / '1.tar'}: b"


def test_the_parts_of_an_image_may_lie_apart(tmp_path: Path) -> None:
    """As in a tar that was packed by the types of the files."""
    three = sorted(sum((members(str(i), i) for i in range(3)), []), key=lambda each: each[0].partition(".")[2])
    source = ImagePoseShards([write_members(tmp_path / "0.tar", *three)])
    assert [source.label(i, [0])[0] for i in range(3)] == ["image 0", "image 1", "image 2"] and not source.dropped


def test_dots_in_a_key_are_named_and_other_members_are_not(tmp_path: Path) -> None:
    extra = [("a.mask.png", b"part of a"), ("._a.jpg", b"what macOS leaves beside a file"), ("a.cls", b"5")]
    write_members(tmp_path / "0.tar", *members("a", 1), *extra, *members("photo.v1", 2), *members("photo.v2", 3))
    source = ImagePoseShards(tmp_path)
    assert len(source) == 1 and source.dropped == {"with a dot in the key, which a dot ends": 2}
    assert source.dropped.names.popitem()[1][0] == f"{tmp_path / '0.tar'}: photo.v1.jpg"


def test_a_key_of_any_bytes_can_be_printed(tmp_path: Path) -> None:
    write_members(tmp_path / "0.tar", *members("caf\udce9", 1), *members("caf\udce8", 2, "txt"))
    source = ImagePoseShards(tmp_path)
    source.name(0).encode()
    assert source.name(0).endswith("caf\\udce9") and str(source.dropped).encode()


def test_a_byte_order_mark_belongs_to_no_text(tmp_path: Path) -> None:
    marked = {part: b"\xef\xbb\xbf" + content for part, content in parts(1).items() if part != "jpg"}
    write_tar(tmp_path / "0.tar", {"0": parts(1) | marked})
    assert ImagePoseShards(tmp_path).label(0, [0])[0] == "image 1"


def test_a_photograph_is_upright_with_its_keypoints(tmp_path: Path) -> None:
    """Keypoints are of the picture as it is shown; those of the picture on its side are refused."""
    exif, file, marked = Image.Exif(), io.BytesIO(), np.zeros((*SIZE[::-1], 3), np.uint8)
    exif[0x0112] = 6
    marked[20, 3] = 255  # of the upright picture
    Image.fromarray(np.rot90(marked)).save(file, "PNG", exif=exif)
    person = np.tile([3.0, 20.0, 1.0], (17, 1))
    labels = {
        key: json.dumps({"width": width, "height": height, "people": [{"keypoints": person.tolist()}]}).encode()
        for key, width, height in (("a", SIZE[0], SIZE[1]), ("b", SIZE[1], SIZE[0]))
    }
    image = {"png": file.getvalue(), "txt": b"a person"}
    write_tar(tmp_path / "0.tar", {key: image | {"json": label} for key, label in labels.items()})
    source = ImagePoseShards(tmp_path, rules=Rules(0))
    frame, (x, y, _) = source.read(0, [0])[0], source.label(0, [0])[1][0, 0].astype(int)
    assert frame.shape == marked.shape and frame[y, x].tolist() == [255, 255, 255] and frame.sum() == 3 * 255
    with pytest.raises(ValueError, match="keypoints of 24 x 16 pixels, and a picture that is shown upright"):
        source.label(1, [0])


def test_an_animation_is_no_training_image(tmp_path: Path) -> None:
    file, frames = io.BytesIO(), [Image.new("RGB", SIZE[::-1], (shade,) * 3) for shade in (0, 99, 200)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    write_tar(tmp_path / "0.tar", {"a": parts(1) | {"jpg": file.getvalue()}})
    with pytest.raises(ValueError, match=r"0\.tar: a: not a readable image \(an animation of 3 frames\)"):
        ImagePoseShards(tmp_path).read(0, [0])


def some_seen(seen: int, size: tuple[int, int] = SIZE) -> bytes:
    """A label with one person, of whom so many joints are seen, the others hardly."""
    person = keypoints(1)[0]
    person[:, 2] = np.where(np.arange(17) < seen, 0.3, 0.29)
    return json.dumps({"width": size[1], "height": size[0], "people": [{"keypoints": person.tolist()}]}).encode()


def test_images_outside_of_the_rules_are_left_out_and_counted(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar",
        {
            "good": parts(0) | {"json": some_seen(9)},
            "unseen": parts(1) | {"json": some_seen(8)},
            "nobody": parts(2, people=0),
            "brief": parts(3) | {"txt": b"ab"},
            "small": parts(4) | {"json": some_seen(17, (9, 24))},
        },
    )
    source = ImagePoseShards(tmp_path, rules=Rules(0.5, min_caption=3, min_size=10))
    assert [source.name(i) for i in range(len(source))] == [f"{tmp_path / '0.tar'}: good"]
    assert source.dropped == {
        "without a person that is seen well enough": 2, "with too short a caption": 1, "too small": 1,
    }  # fmt: skip
    assert len(ImagePoseShards(tmp_path, rules=Rules(0, 0, 0))) == 5


def test_keypoints_outside_of_the_image_have_no_confidence(tmp_path: Path) -> None:
    person = keypoints(1)[0]
    person[:4, :2] = [[-0.6, 5], [5, SIZE[0] - 0.4], [np.nan, 5], [-0.4, SIZE[0] - 0.6]]
    label = {"width": SIZE[1], "height": SIZE[0], "people": [{"keypoints": person.tolist()}]}
    write_tar(tmp_path / "0.tar", {"0": parts(0) | {"json": json.dumps(label).encode()}})
    people = ImagePoseShards(tmp_path).label(0, [0])[1]
    assert np.isfinite(people).all() and people[0, :, 2].tolist() == [0, 0, 0] + 14 * [1]


def test_keypoints_follow_an_image_that_was_shrunk_after_it_was_annotated(tmp_path: Path) -> None:
    recorded = keypoints(1)[0] * [2, 2, 1] + [0.5, 0.5, 0]
    label = {"width": 2 * SIZE[1], "height": 2 * SIZE[0], "people": [{"keypoints": recorded.tolist()}]}
    write_tar(tmp_path / "0.tar", {"0": parts(0) | {"json": json.dumps(label).encode()}})
    np.testing.assert_allclose(ImagePoseShards(tmp_path).label(0, [0])[1], keypoints(1), atol=1e-5)


def test_every_puppet_is_within_the_default_rules(tmp_path: Path) -> None:
    write_dataset(tmp_path, images=60, size=32)
    source = open_source(DataConfig(path=str(tmp_path / "images")))
    assert len(source) == 60 and source.dropped == {}


def test_a_broken_image_names_its_shard_and_key(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"0001": parts(1) | {"jpg": b"no image"}})
    with pytest.raises(ValueError, match=r"0\.tar: 0001: not a readable image"):
        ImagePoseShards(tmp_path).read(0, [0])


def test_workers_read_what_one_process_reads(shards: Path) -> None:
    clips = Clips(ImagePoseShards(shards), 1, [1, 1], SIZE, render_skeleton)
    batches = []
    for workers in (0, 2):
        loader = DataLoader(clips, batch_sampler=EndlessBatches(5, 2, 0), collate_fn=collate, num_workers=workers)
        batches.append(list(islice(loader, 4)))
    for alone, shared in zip(*batches, strict=True):
        assert alone.captions == shared.captions
        for name in ("pixels", "skeleton", "people"):
            assert torch.equal(getattr(alone, name), getattr(shared, name))


# ---- stage 2: clips with captions ------------------------------------------------------------------------------------


def write_clips(folder: Path, *lines: str) -> Path:
    frames = np.stack([np.full((*SIZE, 3), 40 * i, np.uint8) for i in range(5)])
    write_video(folder / "a.mp4", frames, 8)
    (folder / "manifest.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


GOOD = '{"video": "a.mp4", "caption": "a cat"}'


def test_clips_come_with_their_caption_and_the_frames_asked_for(tmp_path: Path) -> None:
    source = VideoClips(write_clips(tmp_path, GOOD, GOOD.replace("cat", "dog")))
    assert len(source) == 2 and source.num_frames(1) == 5
    assert source.label(0, [3, 1]) == ("a cat", None) and source.label(1, [3, 1]) == ("a dog", None)
    frames = source.read(0, [3, 1])
    assert frames.shape == (2, *SIZE, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [120, 40], atol=4)


def test_a_limit_takes_the_first_clips(tmp_path: Path) -> None:
    assert len(VideoClips(write_clips(tmp_path, GOOD, GOOD, GOOD), limit=2)) == 2


@pytest.mark.parametrize(
    "line",
    [
        "5", '["a.mp4", "a cat"]', '{"video": "a.mp4"}', '{"caption": "a"}', '{"video": 5, "caption": "x"}',
        '{"video": "a.mp4", "caption": 5}', '{"video": "a.mp4", "caption": [{"frame": 5}]}',
    ],
)  # fmt: skip
def test_a_bad_line_of_the_manifest_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"manifest\.jsonl: line 2: expected an object with video and caption"):
        VideoClips(write_clips(tmp_path, GOOD, line, GOOD))


def test_a_blank_line_of_the_manifest_is_none_and_one_cut_off_is_named(tmp_path: Path) -> None:
    assert len(VideoClips(write_clips(tmp_path, GOOD, "", GOOD))) == 2
    with pytest.raises(ValueError, match=r"manifest\.jsonl: line 2: not JSON"):
        VideoClips(write_clips(tmp_path, GOOD, "{", GOOD))


HALF = GOOD.replace("a cat", "a cat \\ud83d")  # half an emoji


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (HALF, "with a caption that is no Unicode text"),
        ('{"video": "a.mp4", "caption": [{"frame": 1e999, "caption": "a"}]}', "beyond what JSON may hold here"),
        ('{"video": "a.mp4", "caption": "a", "size": 1' + "0" * 5000 + "}", "beyond what JSON may hold here"),
        ('{"video": "a.mp4", "caption": ' + "[" * 100_000, "beyond what JSON may hold here"),
    ],
)
def test_a_sample_beyond_what_can_be_read_is_left_out_and_counted(tmp_path: Path, line: str, reason: str) -> None:
    source = VideoClips(write_clips(tmp_path, GOOD, line, GOOD))
    assert len(source) == 2 and source.dropped == {reason: 1}


def test_a_line_ends_at_its_line_feed_alone(tmp_path: Path) -> None:
    caption = "a\u2028b\u2029c\x85d\x0ce"
    write_clips(tmp_path)
    line = json.dumps({"video": "a.mp4", "caption": caption.replace("\x0c", " ")}, ensure_ascii=False)
    (tmp_path / "manifest.jsonl").write_bytes(f"\ufeff{line}\r\n{line}".encode())
    source = VideoClips(tmp_path)
    assert [source.label(i, [0])[0] for i in range(2)] == [caption.replace("\x0c", " ")] * 2


def test_an_image_manifest_counts_what_cannot_be_read(tmp_path: Path) -> None:
    person = [{"keypoints": keypoints(1)[0].tolist()}]
    good = {"image": "0.jpg", "caption": "one", "people": person, "width": SIZE[1], "height": SIZE[0]}
    rows = [
        good, good | {"caption": "half \ud83d"}, good | {"width": float("inf")}, good | {"people": 5},
        good | {"people": [{"keypoints": [[10**400, 0, 1]] * 17}]}, good | {"people": "[" * 100_000},
        good | {"people": None}, good,
    ]  # fmt: skip
    (tmp_path / "0.jpg").write_bytes(jpeg(50))
    (tmp_path / "manifest.jsonl").write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    source = open_data(tmp_path)
    assert len(source) == 2 and source.label(1, [0])[0] == "one"
    assert source.dropped == {
        "with a caption that is no Unicode text": 1,
        "without a readable caption and keypoints": 5,
    }


def test_clips_without_a_file_or_a_caption_are_left_out_and_counted(tmp_path: Path) -> None:
    source = VideoClips(write_clips(tmp_path, GOOD.replace("a.mp4", "b.mp4"), GOOD.replace("a cat", " "), GOOD))
    assert len(source) == 1 and source.dropped == {"without a file": 1, "without a caption": 1}
    assert source.dropped.names["without a file"] == [str(tmp_path / "b.mp4")]


def test_a_folder_without_manifest_or_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no manifest\.jsonl and 0 \.csv files"):
        VideoClips(tmp_path)
    with pytest.raises(ValueError, match="no clip"):
        VideoClips(write_clips(tmp_path))


def test_the_caption_nearest_to_the_middle_of_the_frames_is_taken(tmp_path: Path) -> None:
    """Of two as near, the earlier; the order of the rows does not matter."""
    said = [{"frame": 64 * k, "caption": f"at {64 * k}"} for k in (2, 0, 1)]
    source = VideoClips(write_clips(tmp_path, json.dumps({"video": "a.mp4", "caption": said})))
    for frames, nearest in (([0, 8], 0), ([0, 64], 0), ([1, 64], 64), ([60, 100], 64), ([90, 102], 64), ([97], 128)):
        assert source.label(0, frames) == (f"at {nearest}", None)


@pytest.mark.skipif(sys.platform != "linux", reason="measures pages of a forked process")
def test_forked_workers_share_the_strings_of_a_data_set() -> None:
    rows = np.array([f"{number} {'x' * 100}" for number in range(100_000)], STRINGS)
    read, write = os.pipe()
    if (process := os.fork()) == 0:
        before = own_memory()
        length = sum(len(row) for row in rows)
        os.write(write, f"{length} {own_memory() - before}".encode())
        os._exit(0)
    os.waitpid(process, 0)
    length, grown = map(int, os.read(read, 100).split())
    assert length > 10_000_000 and grown < 3_000_000


def own_memory() -> int:
    """Bytes of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_the_layout_of_a_folder_is_recognised(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("layouts")
    assert layout_of(folder) is None and layout_of(folder / "nothing.tar") is None
    assert layout_of(shards) == layout_of(shards / "00000.tar") == layout_of("s3://host/{0..3}.tar") == "shards"
    (folder / "part_3" / "video_clips").mkdir(parents=True)
    assert layout_of(folder) == "clips"
    write_clips(folder, GOOD)
    assert layout_of(folder) == "clips" and len(open_data(folder)) == 1
    (folder / "manifest.jsonl").write_text('{"image": "0.png"}')
    assert layout_of(folder) == "images"
    (folder / "cache.json").write_text("{}")
    assert layout_of(folder) == "latents"
    with pytest.raises(ValueError, match="holds encoded latents, expected the images or clips"):
        open_data(folder, "clips")


# ---- HD-VILA's layout ------------------------------------------------------------------------------------------------


@pytest.fixture
def hdvila(tmp_path: Path) -> Path:
    """Parts 1 and 12 with a clip each, and metadata and captions that name others too."""
    for part, clip in (("part_1", "a.0"), ("part_12", "b.3")):
        folder = tmp_path / part / "video_clips"
        folder.mkdir(parents=True)
        write_video(folder / f"{clip}.mp4", np.zeros((5, *SIZE, 3), np.uint8), 8)
    span = ["00:00:01.000", "00:00:09.000"]
    clips = [{"clip_id": f"a.{k}.mp4", "span": span} for k in range(3)]
    line = {"video_id": "a", "url": "https://host/a", "clip": clips}
    (tmp_path / "hdvila_part1.jsonl").write_text(json.dumps(line) + "\n")
    rows = ["1,a.0.mp4,first", '1,a.0.mp4,"second, later"', "1,a.0,third", "1,a.2,gone", "part_12,b.3,a dog"]
    (tmp_path / "captions.csv").write_text("\n".join(["part_id,clip_id,caption", *rows]) + "\n")
    return tmp_path


def test_the_official_layout_is_recognised_and_a_clip_of_several_rows_is_one(hdvila: Path) -> None:
    source = open_source(DataConfig(path=str(hdvila), kind="clips"))
    names = [f"{hdvila}/part_1/video_clips/a.0.mp4", f"{hdvila}/part_12/video_clips/b.3.mp4"]
    assert [source.name(i) for i in range(len(source))] == names
    assert source.dropped == {"without a caption": 1, "without a file": 1}
    said = [source.label(0, [frame])[0] for frame in (0, 32, 33, 96, 97, 500)]
    assert said == ["first", "first", "second, later", "second, later", "third", "third"]
    assert source.read(1, [0, 4]).shape == (2, *SIZE, 3)


def test_captions_may_lie_elsewhere(hdvila: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("captions") / "blip.csv"
    (hdvila / "captions.csv").rename(elsewhere)
    with pytest.raises(ValueError, match=r"0 \.csv files; .*data\.captions"):
        VideoClips(hdvila)
    assert len(VideoClips(hdvila, captions=elsewhere)) == 2


def test_captions_without_a_column_are_refused(hdvila: Path) -> None:
    (hdvila / "captions.csv").write_text("part_id,clip\n1,a.0\n")
    with pytest.raises(ValueError, match=r"captions\.csv: got columns .*expected also caption, clip_id"):
        VideoClips(hdvila)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,a.0,a robot, dancing in the snow", "line 3: got 4 fields, expected 3; a caption with a comma needs quotes"),
        ('1,a.0,"a robot', r"not a readable CSV of captions \(unexpected end of data\)"),
        ('1,a.0,"a robot"s dance"', "not a readable CSV of captions"),
    ],
)
def test_a_row_whose_fields_cannot_be_told_apart_is_refused_by_line(hdvila: Path, row: str, reason: str) -> None:
    (hdvila / "captions.csv").write_text(f"part_id,clip_id,caption\n12,b.3,a dog\n{row}\n1,a.0,second\n")
    with pytest.raises(ValueError, match=rf"captions\.csv: {reason}"):
        VideoClips(hdvila)


def test_empty_fields_behind_a_caption_are_none(hdvila: Path) -> None:
    (hdvila / "captions.csv").write_text('\ufeffpart_id,clip_id,caption\r\n12,b.3,"a ""dog"", black",,\r\n', "utf-8")
    assert VideoClips(hdvila).label(0, [0])[0] == 'a "dog", black'


def test_metadata_beyond_what_can_be_read_are_counted(hdvila: Path) -> None:
    lines = (hdvila / "hdvila_part1.jsonl").read_text()
    (hdvila / "hdvila_part1.jsonl").write_text(f'\ufeff{lines}{{"clip": {"[" * 100_000}\n', "utf-8")
    source = VideoClips(hdvila)
    assert len(source) == 2 and source.dropped["beyond what JSON may hold here"] == 1
    (hdvila / "hdvila_part1.jsonl").write_text(lines + "{}\n")
    with pytest.raises(ValueError, match=r"hdvila_part1\.jsonl: line 2: expected an object with clip: \[\{clip_id\}\]"):
        VideoClips(hdvila)


# ---- clips -> samples ------------------------------------------------------------------------------------------------


def test_start_and_stride_vary_within_the_clip():
    clips = Clips(Frames(40), 5, [2, 4], SIZE, None)
    starts, strides = set(), set()
    for draw in range(200):
        frames = frames_of(clips[0, draw])
        assert len(frames) == 5 and frames[0] >= 0 and frames[-1] < 40
        (stride,) = set(np.diff(frames))
        starts.add(frames[0])
        strides.add(int(stride))
    assert strides == {2, 3, 4} and len(starts) > 20


def test_every_start_is_drawn_up_to_the_last():
    clips = Clips(Frames(6), 4, [1, 1], SIZE, None)
    assert {frames_of(clips[0, draw])[0] for draw in range(50)} == {0, 1, 2}


@pytest.mark.parametrize(("length", "widest"), [(4, 1), (6, 1), (7, 2), (10, 3), (12, 3), (13, 4)])
def test_a_short_clip_lowers_the_stride(length: int, widest: int):
    clips = Clips(Frames(length), 4, [3, 4], SIZE, None)
    strides = {int(np.diff(frames_of(clips[0, draw]))[0]) for draw in range(40)}
    assert max(strides) == widest and min(strides) == min(3, widest)


def test_a_clip_with_too_few_frames_is_an_error():
    with pytest.raises(ValueError, match="clip 0: has 3 frames, expected at least 4"):
        Clips(Frames(3), 4, [1, 1], SIZE, None)[0, 0]


def test_the_same_index_and_draw_give_the_same_sample():
    first, second = (Clips(Frames(40, 40, people=2), 5, [1, 4], SIZE, None) for _ in range(2))
    for key in [(0, 0), (1, 0), (1, 7)]:
        assert torch.equal(first[key]["pixels"], second[key]["pixels"])
    assert len({tuple(frames_of(first[0, draw])) for draw in range(10)}) > 5


def test_frames_of_the_target_size_stay_as_they_are():
    for people in (None, 2):
        sample = Clips(Frames(3, people=people), 1, [1, 1], SIZE, None, crop="random")[0, 0]
        assert torch.equal(sample["pixels"], to_pixels(Frames(3).read(0, frames_of(sample))))
        assert people is None or np.array_equal(sample["people"], keypoints(2).astype(np.float32))


def test_a_flip_moves_pixels_and_skeleton_together():
    """A mirrored sample shows the mirrored frames, and the skeleton that is drawn of a mirrored person."""
    plain = Clips(Steps(9, people=2), 3, [1, 2], SIZE, render_skeleton)
    mirrored = Clips(Steps(9, people=2), 3, [1, 2], SIZE, render_skeleton, flip_keypoints, flip=1.0)
    for draw in range(5):
        before, after = plain[0, draw], mirrored[0, draw]
        assert torch.equal(after["pixels"], before["pixels"].flip(-1)) and not torch.equal(
            after["pixels"], before["pixels"]
        )
        people = flip_keypoints(before["people"], SIZE[1])
        assert np.array_equal(after["people"], only_inside(people, SIZE))
        expected = to_skeleton(render_skeleton(list(people), *SIZE)[None])
        assert torch.equal(after["skeleton"], expected)


def test_a_share_of_the_clips_is_flipped():
    clips = Clips(Steps(9), 1, [1, 1], SIZE, None, flip=0.3)
    flips = [bool(clips[0, draw]["pixels"][0, 0, 0].diff().mean() < 0) for draw in range(200)]
    assert 40 < sum(flips) < 80


def test_all_frames_of_a_clip_and_its_keypoints_get_one_geometry():
    clips = Clips(Steps(9, people=1), 4, [1, 1], (8, 8), None, flip_keypoints, crop="random", flip=0.5)
    for draw in range(10):
        frames = clips[0, draw]["pixels"]
        steps = frames.diff(dim=-1)  # of the brightness along a row: the same in all frames
        assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-6)


def test_the_skeleton_is_the_rendered_keypoints():
    sample = Clips(Frames(1, people=2), 1, [1, 1], SIZE, render_skeleton)[0, 0]
    expected = render_skeleton(list(keypoints(2)), *SIZE)
    assert sample["skeleton"].shape == (3, 1, *SIZE) and expected.any()
    assert torch.equal((sample["skeleton"][:, 0] * 255).round().byte(), torch.from_numpy(expected).permute(2, 0, 1))


def test_a_skeleton_of_a_clip_without_keypoints_is_an_error():
    with pytest.raises(ValueError, match="has no keypoints, and data.skeleton needs them"):
        Clips(Frames(1), 1, [1, 1], SIZE, render_skeleton)[0, 0]


def test_cached_latents_take_the_place_of_pixels():
    pixels, latents = Clips(Frames(40), 5, [1, 4], SIZE, None), Clips(Latents(40), 5, [1, 4], SIZE, None)
    for draw in range(5):
        sample = latents[0, draw]
        assert "pixels" not in sample and sample["moments"].shape == (8, 5, 2, 3)
        assert sample["moments"][0, :, 0, 0].int().tolist() == frames_of(pixels[0, draw])


def test_pixels_and_skeletons_keep_their_ranges():
    frames = np.stack([np.zeros((*SIZE, 3), np.uint8), np.full((*SIZE, 3), 255, np.uint8)])
    assert to_pixels(frames)[:, :, 0, 0].tolist() == [[-1, 1]] * 3
    assert to_skeleton(frames)[:, :, 0, 0].tolist() == [[0, 1]] * 3


# ---- bad samples -----------------------------------------------------------------------------------------------------


def test_another_sample_takes_the_place_of_one_that_cannot_be_read():
    """Always the same one for the same index and draw, and not always the same one."""
    clips, twin = (Clips(Broken(10, bad=[2, 3, 4]), 2, [1, 1], SIZE, None) for _ in range(2))
    places = [clips[2, draw]["name"] for draw in range(20)]
    assert places == [twin[2, draw]["name"] for draw in range(20)]
    assert len(set(places)) > 3 and not {"clip 2", "clip 3", "clip 4"} & set(places)
    assert clips[2, 0]["bad"][0] == ("clip 2", "cannot be read at all") and clips[1, 0]["bad"] == []


def test_even_a_single_good_sample_is_found():
    clips = Clips(Broken(5, bad=[0, 1, 3, 4]), 2, [1, 1], SIZE, None)
    assert {clips[index, 0]["name"] for index in range(5)} == {"clip 2"}


def test_a_clip_that_is_too_short_is_bad_not_an_end():
    sample = Clips(Frames(3, 9), 4, [1, 1], SIZE, None)[0, 0]
    assert sample["name"] == "clip 1" and sample["bad"] == [("clip 0", "has 3 frames, expected at least 4")]


def test_data_of_which_nothing_can_be_read_is_an_error():
    with pytest.raises(ValueError, match="none of 3 samples in a row can be read, such as clip 0: cannot be read at"):
        Clips(Broken(3, bad=range(3)), 2, [1, 1], SIZE, None)[0, 0]


def test_a_batch_names_its_samples_and_the_bad_ones():
    clips = Clips(Broken(6, bad=[1, 2]), 2, [1, 1], SIZE, None)
    batch = collate([clips[index, 0] for index in range(3)])
    assert batch.names[0] == "clip 0" and batch.captions == batch.names
    assert {name for name, _ in batch.bad} == {"clip 1", "clip 2"}
    assert batch.to(torch.device("cpu")).bad == batch.bad


# ---- samples -> batches ----------------------------------------------------------------------------------------------


def test_people_are_padded_without_confidence():
    crowd = [Clips(Frames(1, people=people), 1, [1, 1], SIZE, render_skeleton)[0, 0] for people in (0, 3, 1)]
    batch = collate(crowd)
    assert batch.captions == ["clip 0"] * 3 and batch.moments is None
    assert batch.pixels.shape == batch.skeleton.shape == (3, 3, 1, *SIZE)
    assert batch.people.shape == (3, 3, 17, 3)
    assert [(person[:, :, 2] > 0).all(1).sum().item() for person in batch.people] == [0, 3, 1]
    assert torch.equal(batch.people[2, :1], torch.from_numpy(crowd[2]["people"]))
    assert not batch.people[0].any() and not batch.people[2, 1:].any()


def test_a_batch_without_people_keeps_a_place_for_one():
    assert collate([Clips(Frames(1, people=0), 1, [1, 1], SIZE, None)[0, 0]]).people.shape == (1, 1, 17, 3)


def test_unlabelled_clips_make_an_unposed_batch():
    batch = collate([Clips(Frames(9), 4, [1, 1], SIZE, None)[0, draw] for draw in range(2)])
    assert batch.people is None and batch.skeleton is None and batch.pixels.shape == (2, 3, 4, *SIZE)


# ---- order -----------------------------------------------------------------------------------------------------------


def take(count: int, *arguments: int, **options: int) -> list[list[tuple[int, int]]]:
    """The first batches of an order."""
    return list(islice(EndlessBatches(*arguments, **options), count))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_ranks_see_disjoint_and_complete_data_once_per_epoch(ranks: int, batch: int):
    length, epochs = 11, batch * ranks  # after so many epochs a batch ends with one
    seen = [
        sum(take(length * epochs // (batch * ranks), length, batch, 3, rank=rank, ranks=ranks), [])
        for rank in range(ranks)
    ]
    assert len({len(part) for part in seen}) == 1
    together = sum(seen, [])
    assert sorted(together) == sorted((index, epoch) for index in range(length) for epoch in range(epochs))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("start", [1, 4, 9])
def test_an_order_goes_on_exactly_from_any_batch(start: int, ranks: int):
    for rank in range(ranks):
        whole = take(start + 6, 7, 2, 0, rank=rank, ranks=ranks)
        assert take(6, 7, 2, 0, start=start * 2 * ranks, rank=rank, ranks=ranks) == whole[start:]


@pytest.mark.parametrize(("ranks", "batch"), [(1, 12), (3, 4), (4, 3), (8, 1)])
def test_an_order_goes_on_with_another_number_of_processes(ranks: int, batch: int):
    """After 24 samples of two processes, any number of processes goes on as the two would have."""
    expected = [key for both in zip(*(take(16, 30, 3, 0, rank=rank, ranks=2) for rank in range(2)), strict=True)
                for part in both for key in part]  # fmt: skip
    steps = 72 // (ranks * batch)
    parts = [take(steps, 30, batch, 0, start=24, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert [key for step in zip(*parts, strict=True) for part in step for key in part] == expected[24:]


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    length = 20
    epochs = [[index for index, _ in batch] for batch in take(5, length, length, 0)]
    assert all(sorted(order) == list(range(length)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 5
    assert take(1, length, length, 1) != take(1, length, length, 0)


def test_a_batch_may_be_larger_than_the_data():
    (keys,) = take(1, 3, 7, 0)
    assert [epoch for _, epoch in keys] == [0, 0, 0, 1, 1, 1, 2]
    assert sorted(keys[:3]) == [(0, 0), (1, 0), (2, 0)] and sorted(keys[3:6]) == [(0, 1), (1, 1), (2, 1)]
