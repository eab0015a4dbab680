"""Training data: what is on disk is read or refused by name, and every sample and every order follows from numbers."""

import io
import json
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

from followyourpose.data.batch import Clips, EndlessBatches, collate, to_pixels, to_skeleton
from followyourpose.data.image_pose import ImagePoseShards
from followyourpose.data.video_clips import VideoClips
from followyourpose.data.video_io import write_video
from followyourpose.pose.render import render_skeleton

SIZE = (16, 24)  # H, W


def keypoints(people: int, seed: int = 0) -> np.ndarray:
    """Random people (people, 17, 3) within SIZE, every joint seen."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random((people, 17, 2)) * SIZE[::-1], np.ones((people, 17, 1))], -1).round(2)


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", SIZE[::-1], (shade, shade, shade)).save(file, "JPEG", quality=95)
    return file.getvalue()


def parts(index: int, people: int = 1) -> dict[str, bytes]:
    """The three files of image `index`: its shade is 10 x index, its caption "image <index>"."""
    people_json = [{"keypoints": person.tolist()} for person in keypoints(people, index)]
    label = {"width": SIZE[1], "height": SIZE[0], "people": people_json}
    return {"jpg": jpeg(10 * index), "txt": f"image {index}\n".encode(), "json": json.dumps(label).encode()}


def write_shard(path: Path, content: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, files in content.items():
            for part, data in files.items():
                member = tarfile.TarInfo(f"{key}.{part}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards, of three images and of two; image i shows i people."""
    write_shard(tmp_path / "00000.tar", {f"{i:04d}": parts(i, i) for i in range(3)})
    write_shard(tmp_path / "00001.tar", {f"{i:04d}": parts(i, i) for i in range(3, 5)})
    return tmp_path


class Frames:
    """A source of clips with given lengths; every pixel of frame i has the value i."""

    def __init__(self, *lengths: int, people: int | None = None) -> None:
        self.lengths, self.people = lengths, people

    def __len__(self) -> int:
        return len(self.lengths)

    def num_frames(self, index: int) -> int:
        return self.lengths[index]

    def label(self, index: int) -> tuple[str, np.ndarray | None]:
        return f"clip {index}", None if self.people is None else keypoints(self.people, index).astype(np.float32)

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        return np.stack([np.full((*SIZE, 3), frame, np.uint8) for frame in frames])


class Latents(Frames):
    """The same with latents (8, f, 2, 3) in place of pixels, as a cache serves them."""

    def read(self, index: int, frames: Sequence[int]) -> Tensor:
        return torch.tensor(frames).float()[None, :, None, None].expand(8, -1, 2, 3)


def frames_of(sample: dict) -> list[int]:
    """Which frames of a `Frames` clip a sample shows."""
    return ((sample["pixels"][0, :, 0, 0] + 1) * 127.5).round().int().tolist()


# ---- stage 1: images with captions and keypoints ---------------------------------------------------------------------


def test_images_of_all_shards_come_in_order_with_caption_and_keypoints(shards: Path) -> None:
    source = ImagePoseShards(shards)
    assert len(source) == 5
    for index in range(5):
        caption, people = source.label(index)
        assert caption == f"image {index}" and people.shape == (index, 17, 3) and people.dtype == np.float32
        np.testing.assert_allclose(people, keypoints(index, index), rtol=1e-6)
        image = source.read(index, [0])
        assert image.shape == (1, *SIZE, 3) and image.dtype == np.uint8 and abs(int(image.mean()) - 10 * index) <= 2
        assert source.num_frames(index) == 1


@pytest.mark.parametrize("limit", [2, 4, 100])
def test_a_limit_takes_the_first_images(shards: Path, limit: int) -> None:
    source = ImagePoseShards(shards, limit)
    assert [source.label(i)[0] for i in range(len(source))] == [f"image {i}" for i in range(min(limit, 5))]


@pytest.mark.parametrize("missing", ["jpg", "txt", "json"])
def test_an_incomplete_image_names_its_shard_and_key(shards: Path, missing: str) -> None:
    files = parts(7)
    del files[missing]
    write_shard(shards / "00002.tar", {"0006": parts(6), "0007": files})
    with pytest.raises(ValueError, match=r"00002\.tar: 0007 has .*expected \['jpg', 'json', 'txt'\]"):
        ImagePoseShards(shards)


def test_members_may_lie_in_a_folder_of_the_tar(tmp_path: Path) -> None:
    """`tar -C folder -cf shard.tar .` names them so."""
    write_shard(tmp_path / "0.tar", {f"./{i}": parts(i) for i in range(2)})
    assert [ImagePoseShards(tmp_path).label(i)[0] for i in range(2)] == ["image 0", "image 1"]


def test_what_is_no_tar_is_named(shards: Path) -> None:
    (shards / "00002.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(ValueError, match=r"00002\.tar: not a tar file"):
        ImagePoseShards(shards)


def test_a_shard_that_is_cut_short_is_named(shards: Path) -> None:
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[:700])
    with pytest.raises(ValueError, match=r"00001\.tar"):
        ImagePoseShards(shards)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \.tar shard"):
        ImagePoseShards(tmp_path)


@pytest.mark.parametrize(("images", "limit"), [(0, None), (2, 0)])
def test_data_without_an_image_is_refused(tmp_path: Path, images: int, limit: int | None) -> None:
    write_shard(tmp_path / "0.tar", {f"{i}": parts(i) for i in range(images)})
    with pytest.raises(ValueError, match="no image"):
        ImagePoseShards(tmp_path, limit)


@pytest.mark.parametrize(
    ("part", "content"),
    [("json", b"{"), ("json", b"{}"), ("json", b'{"people": [{"keypoints": [[1, 2]]}]}'), ("txt", b"\xff")],
)
def test_a_label_that_cannot_be_read_names_its_shard_and_key(tmp_path: Path, part: str, content: bytes) -> None:
    write_shard(tmp_path / "0.tar", {"0001": parts(1) | {part: content}})
    with pytest.raises(ValueError, match=r"0\.tar: 0001"):
        ImagePoseShards(tmp_path).label(0)


def test_a_broken_image_names_its_shard_and_key(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", {"0001": parts(1) | {"jpg": b"no image"}})
    with pytest.raises(ValueError, match=r"0\.tar: 0001\.jpg is not a readable image"):
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
    assert source.label(0) == ("a cat", None) and source.label(1) == ("a dog", None)
    frames = source.read(0, [3, 1])
    assert frames.shape == (2, *SIZE, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [120, 40], atol=4)


def test_a_limit_takes_the_first_clips(tmp_path: Path) -> None:
    assert len(VideoClips(write_clips(tmp_path, GOOD, GOOD, GOOD), limit=2)) == 2


@pytest.mark.parametrize(
    "line",
    ["", "{", "5", '["a.mp4", "a cat"]', '{"video": "a.mp4"}', '{"caption": "a cat"}', '{"video": 5, "caption": "x"}'],
)
def test_a_bad_line_of_the_manifest_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"manifest\.jsonl: line 2: expected an object with video and caption"):
        VideoClips(write_clips(tmp_path, GOOD, line, GOOD))


def test_a_missing_video_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.jsonl: line 2: .*b\.mp4 not found"):
        VideoClips(write_clips(tmp_path, GOOD, GOOD.replace("a.mp4", "b.mp4")))


def test_a_folder_without_manifest_or_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.jsonl: not found"):
        VideoClips(tmp_path)
    with pytest.raises(ValueError, match=r"manifest\.jsonl: .*no clip"):
        VideoClips(write_clips(tmp_path))


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
    with pytest.raises(ValueError, match="clip 0 .*has 3 frames, expected at least 4"):
        Clips(Frames(3), 4, [1, 1], SIZE, None)[0, 0]


def test_the_same_index_and_draw_give_the_same_sample():
    first, second = (Clips(Frames(40, 40, people=2), 5, [1, 4], SIZE, None) for _ in range(2))
    for key in [(0, 0), (1, 0), (1, 7)]:
        assert torch.equal(first[key]["pixels"], second[key]["pixels"])
    assert len({tuple(frames_of(first[0, draw])) for draw in range(10)}) > 5


def test_a_clip_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"clip 0 \('clip 0'\) is \(16, 24\), expected \(16, 16\) pixels"):
        Clips(Frames(3), 1, [1, 1], (16, 16), None)[0, 0]


def test_the_skeleton_is_the_rendered_keypoints():
    sample = Clips(Frames(1, people=2), 1, [1, 1], SIZE, render_skeleton)[0, 0]
    expected = render_skeleton(list(keypoints(2)), *SIZE)
    assert sample["skeleton"].shape == (3, 1, *SIZE) and expected.any()
    assert torch.equal((sample["skeleton"][:, 0] * 255).round().byte(), torch.from_numpy(expected).permute(2, 0, 1))


def test_a_skeleton_asked_of_a_clip_without_keypoints_is_an_error():
    with pytest.raises(ValueError, match="has no keypoints, and data.skeleton asks for a skeleton"):
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


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
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
        assert take(6, 7, 2, 0, start=start, rank=rank, ranks=ranks) == whole[start:]


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
