"""Collections of videos: the contents of runs and manifests, and errors with their file and line."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from followyourpose.config import GenerateConfig, PoseConfig
from followyourpose.data.video_io import write_gif, write_video
from followyourpose.evaluation.samples import Collection, check_lengths, fitted
from followyourpose.evaluation.sources import read_collection
from followyourpose.pose.formats import write_any
from followyourpose.pose.keypoints_file import ClipKeypoints, write_keypoints
from followyourpose.pose.render import render_skeleton
from tests.poses import person

SIZE = 32


def frames_of(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, height, width, 3), dtype=np.uint8)


def clip_of(count: int, size: int = SIZE) -> ClipKeypoints:
    poses = [person(x=size / 2 + number, feet=0.9 * size, height=0.7 * size) for number in range(count)]
    return ClipKeypoints(size, size, 8.0, [[pose] for pose in poses])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 4 frames, its skeleton as keypoints, drawn with keypoints beside it, drawn alone, and unfit files."""
    folder, clip = tmp_path_factory.mktemp("files"), clip_of(4)
    drawn = np.stack([render_skeleton(people, SIZE, SIZE) for people in clip.frames])
    write_video(folder / "a.mp4", frames_of(4), 8)
    write_keypoints(folder / "pose.json", clip)
    write_video(folder / "pose.mp4", drawn, 8)
    write_video(folder / "alone.mp4", drawn, 8)
    write_keypoints(folder / "short.json", clip_of(3))
    write_keypoints(folder / "long.json", clip_of(9))
    write_video(folder / "wide.mp4", frames_of(4, SIZE, 2 * SIZE), 8)
    write_video(folder / "two.mp4", frames_of(2), 8)
    (folder / "text.mp4").write_text("no video")
    write_gif(folder / "a.gif", frames_of(4), 8)
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path) -> Path:
    """A copy of the files."""
    return shutil.copytree(files, tmp_path, dirs_exist_ok=True)


def manifest(folder: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "manifest.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


ROW = {"video": "a.mp4", "prompt": "a cat", "skeleton": "pose.json"}


def test_a_line_gives_a_video_its_prompt_and_its_poses(folder: Path):
    collection = read_collection(manifest(folder, ROW, ROW | {"skeleton": "pose.mp4", "prompt": "a dog", "seed": 3}))
    assert [(s.name, s.prompt, s.seed) for s in collection.samples] == [("a.mp4", "a cat", 0), ("a.mp4", "a dog", 3)]
    assert collection.videos[0].shape == (4, SIZE, SIZE, 3) and collection.real is None
    first, second = (np.stack(sample.people) for sample in collection.samples)
    assert np.array_equal(first, second) and first.shape == (4, 1, 17, 3)
    assert len(read_collection(folder / "manifest.jsonl").samples) == 2


def test_keypoints_of_any_tool_are_taken_and_several_are_in_one_frame(folder: Path):
    write_any(folder / "openpose", clip_of(4), "openpose")
    rows = [{"people": [{"pose_keypoints_2d": [16.0, 20.0, 1.0] * 18}]}] * 4  # without a size: that of the video
    (folder / "bare.json").write_text(json.dumps(rows))
    skeletons = ["openpose", "bare.json", ["pose.json", "openpose"]]
    samples = read_collection(manifest(folder, *(ROW | {"skeleton": each} for each in skeletons))).samples
    assert [len(sample.people[0]) for sample in samples] == [1, 1, 2]
    np.testing.assert_allclose(np.stack(samples[0].people)[:, 0], np.stack(clip_of(4).frames)[:, 0], atol=0.5)
    assert samples[1].people[0][0][0].tolist() == [16, 20, 1]


def test_frames_choose_those_of_the_skeleton_that_a_video_follows(folder: Path):
    write_keypoints(folder / "long.json", clip_of(9))
    write_video(folder / "real.mp4", frames_of(9), 8)
    row = ROW | {"skeleton": "long.json", "real": "real.mp4", "frames": [1, 3, 5, 7]}
    collection = read_collection(manifest(folder, row))
    assert [people[0][0, 0] for people in collection.samples[0].people] == [
        clip_of(9).frames[i][0][0, 0] for i in (1, 3, 5, 7)
    ]
    assert len(collection.real[0]) == 4


def test_a_skeleton_of_another_size_is_brought_to_that_of_the_video(folder: Path):
    write_keypoints(folder / "large.json", clip_of(4, 4 * SIZE))
    (sample,) = read_collection(manifest(folder, ROW | {"skeleton": "large.json"})).samples
    large = clip_of(4, 4 * SIZE).frames[0][0]
    np.testing.assert_allclose(sample.on(SIZE, SIZE)[0][0][:, :2], (large[:, :2] + 0.5) / 4 - 0.5, atol=1e-3)
    assert sample.skeleton.shape == (4, 4 * SIZE, 4 * SIZE, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": None}, r"prompt: got None, expected the video's text"),
        ({"prompt": " "}, r"prompt: got ' '"),
        ({"video": "b.mp4"}, r"video: .*b\.mp4: no such file"),
        ({"video": 3}, r"video: got 3, expected a path"),
        ({"skelton": "pose.json"}, r"got skelton, expected an object with keys of video, prompt, skeleton"),
        ({"skeleton": ["pose.json", "long.json"]}, r"long\.json has 9 frames of 32 x 32 pixels, .*pose\.json 4 of"),
        ({"skeleton": []}, r"skeleton: got \[\], expected a path, or a list"),
        ({"skeleton": [3]}, "skeleton: got 3, expected a path"),
        ({"skeleton": "alone.mp4"}, r"alone\.mp4 is drawn, expected its keypoints as alone\.json beside it"),
        ({"skeleton": "short.json"}, r"a\.mp4 has 4 frames, its skeleton 3 of 3"),
        ({"skeleton": "long.json"}, r"a\.mp4 has 4 frames, its skeleton 9 of 9: expected the numbers .* as \"frames\""),
        (
            {"skeleton": "long.json", "frames": [1, 2, 9]},
            r"frames: got \[1, 2, 9\], expected a list of numbers from 0 to 8",
        ),
        ({"skeleton": "long.json", "frames": []}, r"frames: got \[\]"),
        ({"video": "wide.mp4"}, r"wide\.mp4 is 64 x 32 pixels, its skeleton 32 x 32, another shape"),
        ({"real": "two.mp4"}, r"two\.mp4 has 2 frames, expected those of the skeleton, 4"),
        ({"seed": -1}, r"seed: got -1"),
        ({"video": "text.mp4"}, r"text\.mp4"),
        ({"video": "a.gif"}, r"a\.gif: a gif's 256 colours would be measured too"),
        ({"video": None, "skeleton": None}, "neither a video nor a skeleton"),
    ],
)
def test_a_line_that_does_not_fit_is_named_with_its_file_and_number(folder: Path, change: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=rf"manifest\.jsonl: line 2: .*{reason}"):
        read_collection(manifest(folder, ROW, ROW | change))


def test_only_a_line_feed_ends_a_line_of_a_manifest(folder: Path):
    rows = [json.dumps(ROW | {"prompt": f"a{mark}b"}, ensure_ascii=False) for mark in "\u2028\x85\x1c"]
    (folder / "manifest.jsonl").write_bytes("\r\n\n".join(rows[:2]).encode())
    assert [sample.prompt for sample in read_collection(folder).samples] == ["a\u2028b", "a\x85b"]


def test_a_line_that_no_text_editor_wrote_is_one_error(folder: Path):
    deep = "[" * 900 + "]" * 900
    for line in (f'{{"video": "a.mp4", "prompt": {deep}}}', "[" * 10**6, "9" * 5000, '{"prompt": "\\ud83d"}', "\0"):
        with pytest.raises(ValueError, match=r"manifest\.jsonl: line 2: .") as error:
            read_collection(manifest(folder, ROW, line))
        assert len(str(error.value)) < 500


def test_folders_without_videos_are_refused(folder: Path):
    with pytest.raises(ValueError, match=r"holds neither run\.json nor manifest\.jsonl, expected the folder of a"):
        read_collection(folder)
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        read_collection(folder / "nowhere")
    with pytest.raises(ValueError, match=r"manifest\.jsonl: no videos, expected a line for each"):
        read_collection(manifest(folder))
    with pytest.raises(ValueError, match=r"manifest\.jsonl: line 1: "):
        read_collection(manifest(folder, "{"))
    with pytest.raises(ValueError, match=r"line 2: no video, but other lines have one"):
        read_collection(manifest(folder, ROW, {"prompt": "a cat", "skeleton": "pose.json"}))


def test_samples_to_draw_are_cut_as_generate_cuts_them(folder: Path):
    clip = ClipKeypoints(2 * SIZE, SIZE, 8.0, [[person(x=SIZE, feet=30, height=20)]] * 5)
    write_keypoints(folder / "wide.json", clip)
    write_video(folder / "wide.mp4", frames_of(5, SIZE, 2 * SIZE), 8)
    wanted = read_collection(manifest(folder, {"prompt": "a cat", "skeleton": "wide.json", "real": "wide.mp4"}))
    assert wanted.videos is None
    ready = fitted(wanted, 16, 16, 3)
    (sample,) = ready.samples
    assert sample.skeleton.shape == ready.real[0].shape == (3, 16, 16, 3)
    expected = (clip.frames[0][0][:, :2] + 0.5 - (SIZE / 2, 0)) / 2 - 0.5
    np.testing.assert_allclose(sample.people[0][0][:, :2], expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"wide\.json: its skeleton has 5 frames, expected num_frames, 6"):
        check_lengths(wanted, 6)


# ---- runs of generate -----------------------------------------------------------------------------------------------


PROMPTS = {"prompt": ["a cat", "a dog"]}


def write_run(folder: Path, skeletons: list[str], count: int = 3, **settings: Any) -> Collection:
    """Write the files of a run of two prompts with each skeleton, and return the collection that is read from them."""
    config = GenerateConfig(skeleton=skeletons, num_frames=3, height=16, width=16, enlarge=2, **PROMPTS | settings)
    run = folder / "run"
    run.mkdir(exist_ok=True)
    videos = []
    for index, (_, prompt) in enumerate((s, p) for s in skeletons for p in config.prompt):
        write_video(run / f"{index}.mp4", frames_of(count), 8)
        videos.append({"prompt": prompt, "skeleton": "x", "seed": 5, "files": [f"{index}.mp4", f"{index}.gif"]})
    (run / "run.json").write_text(json.dumps({"settings": asdict(config), "videos": videos}))
    return read_collection(run)


def test_a_run_has_the_poses_that_it_was_driven_with(folder: Path):
    skeletons = [str(folder / "pose.json"), str(folder / "pose.mp4"), str(folder / "alone.mp4")]
    collection = write_run(folder, skeletons, temporal_offset=1)
    assert [sample.prompt for sample in collection.samples] == ["a cat", "a dog"] * 3
    assert collection.samples[0].seed == 5 and collection.videos[0].shape == (3, SIZE, SIZE, 3)
    for sample in collection.samples[:4]:
        assert [people[0][0, 0] for people in sample.people] == [f[0][0, 0] for f in clip_of(4).frames[1:]]
    assert collection.samples[4].people is None  # drawn, without keypoints beside it


def test_a_run_of_raw_videos_has_the_poses_that_it_found(folder: Path):
    (folder / "run" / "pose").mkdir(parents=True)
    write_keypoints(folder / "run" / "pose" / "keypoints.json", clip_of(3))
    collection = write_run(folder, [str(folder / "a.mp4")], pose=PoseConfig(source="raw"), temporal_offset=1)
    np.testing.assert_allclose(np.stack(collection.samples[1].people), np.stack(clip_of(3).frames), atol=1e-3)


def test_joints_that_a_run_did_not_draw_do_not_count(folder: Path):
    clip = clip_of(4)
    for people in clip.frames:
        people[0][:2, 2] = 0.5
    write_keypoints(folder / "pose.json", clip)
    collection = write_run(folder, [str(folder / "pose.json")], pose=PoseConfig(min_confidence=0.6))
    assert (collection.samples[0].people[0][0][:3, 2] > 0).tolist() == [False, False, True]


def test_a_run_that_does_not_fit_its_record_is_refused(folder: Path):
    expected = r"0\.mp4: has 2 frames of 32 x 32 pixels, expected those of the run: 3 frames of 32 x 32 pixels"
    with pytest.raises(ValueError, match=expected):
        write_run(folder, [str(folder / "pose.json")], count=2)
    (folder / "pose.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json: skeleton: .*pose\.json: no such file"):
        read_collection(folder / "run")
    record = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    (folder / "run" / "run.json").write_text(json.dumps(record | {"videos": []}))
    with pytest.raises(ValueError, match=r"run\.json: a run without videos"):
        read_collection(folder / "run")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"settings": []}, "not the record of a run of generate"),
        ({"settings": {"prompt": "a", "height": None}}, "a run without videos or their size"),
        ({"settings": {"prompt": "a", "height": "16", "size": 3}}, "unknown key size"),
        ({"videos": {}}, "a run without videos or their size"),
        ({"videos": [5]}, "not the record of a run of generate"),
        ({"videos": [{"files": ["0.mp4"], "prompt": None, "seed": 5}]}, r"not the record .*\(prompt: got None"),
        (
            {"videos": [{"files": ["0.mp4"], "prompt": "\ud83d", "seed": 5}]},
            r"not the .*\(prompt: got '\\ud83d'",
        ),
        ({"videos": [{"files": [], "prompt": "a", "seed": 5}]}, "not the record of a run of generate"),
        ({"videos": [{"files": ["0.mp4"], "prompt": "a", "seed": float("inf")}]}, "not the record of a run"),
        ("{}", r"not the record of a run of generate \('settings'\)"),
        ("{", "not a JSON file"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "not a JSON file"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(folder: Path, change: dict[str, Any] | str, reason: str):
    write_run(folder, [str(folder / "pose.json")])
    record = folder / "run" / "run.json"
    record.write_text(
        change if isinstance(change, str) else json.dumps(json.loads(record.read_text(encoding="utf-8")) | change)
    )
    with pytest.raises(ValueError, match=rf"run\.json: .*{reason}"):
        read_collection(folder / "run")


def test_text_of_a_record_is_read_literally(folder: Path):
    """Neither as YAML nor as an interpolation: `no` is no False, and `${...}` is not filled in."""
    prompts = ["${oc.env:HOME}", "no", "a robot #1", "batman: the movie", "", "a\u2028b \\${x}"]
    skeleton = folder / "a ${oc.env:HOME} #1: no.json"
    shutil.copy(folder / "pose.json", skeleton)
    collection = write_run(folder, [str(skeleton)], prompt=prompts, negative_prompt="no", style="010")
    assert [sample.prompt for sample in collection.samples] == prompts
    assert collection.samples[5].people is not None


@pytest.mark.parametrize("name", ["manifest.jsonl", "run.json"])
def test_a_byte_order_mark_is_no_part_of_the_text(folder: Path, name: str):
    if name == "run.json":
        write_run(folder, [str(folder / "pose.json")])
        folder = folder / "run"
    else:
        manifest(folder, ROW | {"prompt": "café"})
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert read_collection(folder).samples[0].prompt == {"run.json": "a cat"}.get(name, "café")
