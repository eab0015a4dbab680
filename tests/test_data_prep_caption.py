"""Captions of clips and images by any captioner: each frame its own, none lost, bad ones counted, read by training."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import caption, captioner
from data_prep.caption import Captioning, chosen_frames, fault, find_files, main
from data_prep.captioner import Captioner
from data_prep.hdvila import Cutting, Rules, cut_video, find_videos, write_manifest
from data_prep.scale import slurm_part
from followyourpose.data.video_clips import VideoClips
from tests.captioners import WORDS, write_blip, write_llava
from tests.downloads import ramp, run_script, write_metadata, write_source
from tests.runs import contents


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blip(tmp_path_factory.mktemp("captioners") / "blip", seed=2)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("captioners") / "llava", seed=2)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips, an image, and a file that cannot be read."""
    folder = tmp_path / "clips"
    for name, frames in (("b/10", 9), ("b/a", 5), ("z", 7)):
        write_source(folder / f"{name}.mp4", ramp(frames, step=20), 10)
    Image.fromarray(ramp(1)[0]).save(folder / "still.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def brightness(images: list[np.ndarray]) -> list[str]:
    """Caption images by their brightness, in tens; black ones get none."""
    tens = [round(int(image[-1, -1, 0]), -1) for image in images]
    return [f"a grey of {grey}" if grey else "" for grey in tens]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units done by this process, and not by others."""

    def run(job: Captioning, units: list, runner: str, **_) -> None:
        work = job.open()
        for unit in slurm_part(units) if runner == "slurm" else units:
            if not job.is_done(unit):
                work(unit)

    monkeypatch.setattr(caption, "run", run)


@pytest.fixture
def grey(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions by `brightness`."""
    monkeypatch.setattr(captioner, "Captioner", lambda *_: brightness)
    monkeypatch.setattr(caption, "resolve", lambda *_: None)


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "prompt"), [("blip", ""), ("blip", "a red"), ("llava", ""), ("llava", "the robot")])
def test_each_image_gets_the_caption_it_has_alone_without_the_prompt(
    request: pytest.FixtureRequest, model: str, prompt: str
) -> None:
    captioner = Captioner(str(request.getfixturevalue(model)), prompt, most=6)
    images = [np.random.default_rng(index).integers(0, 255, (30, 50 - index, 3), np.uint8) for index in range(3)]
    captions = captioner(images)
    assert captions == [captioner([image])[0] for image in images] and len(set(captions)) > 1
    assert {word for text in captions for word in text.split()} <= set(WORDS)
    assert all(len(text.split()) <= 6 for text in captions)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or folder"),
        ({"model_type": "clip"}, "got a model of type clip, expected one from images to text"),
        ({}, "Unrecognized model"),
    ],
)
def test_a_model_that_makes_no_captions_is_refused_in_one_line(
    tmp_path: Path, content: dict | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"^--model: .*{reason}") as error:
        Captioner(str(tmp_path / "model"))
    assert "\n" not in str(error.value)


# ---- frames and captions ---------------------------------------------------------------------------------------------


def test_frames_are_the_middles_of_equal_parts_or_so_many_apart() -> None:
    assert [list(chosen_frames(10, frames)) for frames in (1, 2, 5)] == [[5], [2, 7], [1, 3, 5, 7, 9]]
    assert list(chosen_frames(3, 5)) == [0, 1, 2] and list(chosen_frames(1, 4)) == [0]
    assert list(chosen_frames(130, 0, every=64)) == [0, 64, 128]


@pytest.mark.parametrize(
    "text", ["", " ", "...", "7 7", "a dog dog dog dog", "a red hat a red hat a red a red a red a red"]
)
def test_a_caption_that_is_none_is_left_out(text: str) -> None:
    assert fault(text)


@pytest.mark.parametrize("text", ["a dog", "舞者在跳舞", "go, go, go!", "a man and a man and a dog", "un été"])
def test_any_sentence_is_kept(text: str) -> None:
    assert fault(text) is None


def test_captions_belong_to_their_frames_and_bad_ones_are_counted_by_name(
    clips: Path, grey: None, capsys: pytest.CaptureFixture
) -> None:
    main([str(clips), str(clips / "manifest.jsonl"), "--every", "4", "--batch", "2"])
    rows = {row.get("video") or row["image"]: row["caption"] for row in rows_of(clips / "manifest.jsonl")}
    assert rows["b/10.mp4"] == [{"frame": frame, "caption": f"a grey of {20 * frame}"} for frame in (4, 8)]
    assert rows["b/a.mp4"] == rows["z.mp4"] == "a grey of 80"
    assert rows["broken.mp4"] == rows["still.png"] == "" and len(rows) == 5
    out = capsys.readouterr().out
    assert "3 of 5 files have a caption" in out
    assert "4 that are empty (b/10.mp4, frame 0, b/a.mp4, frame 0, still.png, ...)" in out
    assert "1 of files that cannot be read (broken.mp4, frame 0)" in out


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_and_new_files_alone_are_captioned(
    clips: Path, tmp_path: Path, grey: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption, "UNIT", 2)
    arguments = [str(clips), str(tmp_path / "out.jsonl")]
    main(arguments)
    whole = (tmp_path / "out.jsonl").read_text()
    next((tmp_path / "out.parts").glob("*.json")).unlink()
    main(arguments)
    assert (tmp_path / "out.jsonl").read_text() == whole
    write_source(clips / "a.mp4", ramp(3, step=20), 10)
    write_source(clips / "z.mp4", ramp(3, step=30), 10)  # another file of the same name
    old = contents(tmp_path / "out.parts").values()
    main(arguments)
    new = [json.loads(content) for content in contents(tmp_path / "out.parts").values() if content not in old]
    assert sorted(name for unit in new for name in unit["files"]) == ["a.mp4", "z.mp4"]
    assert {row.get("video"): row["caption"] for row in rows_of(tmp_path / "out.jsonl")}["z.mp4"] == "a grey of 30"
    with pytest.raises(ValueError, match="frames: was done with 1, got 2 now"):
        main([*arguments, "--frames", "2"])


@pytest.mark.slow
def test_tasks_of_an_array_write_what_one_process_writes(
    blip: Path, clips: Path, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", str(blip), "--frames", "2", "--most", "5")
    assert "0 done before" in run_script("caption", clips, tmp_path / "all.jsonl", *options, "--workers", "1").stdout
    monkeypatch.setattr(caption, "UNIT", 3)
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    for task in "10":
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        main([str(clips), str(tmp_path / "out.jsonl"), *options, "--runner", "slurm"])
    assert not (tmp_path / "out.jsonl").exists()  # other tasks may be at work
    main([str(clips), str(tmp_path / "out.jsonl"), *options])
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "all.jsonl").read_text()
    assert len(list((tmp_path / "out.parts").glob("*.json"))) == 2
    assert any(row["caption"] for row in rows_of(tmp_path / "all.jsonl"))


# ---- data sets -------------------------------------------------------------------------------------------------------


def test_training_reads_the_captions_of_a_folder_of_clips(clips: Path, grey: None) -> None:
    (clips / "still.png").unlink()
    main([str(clips), str(clips / "manifest.jsonl"), "--every", "4"])
    source = VideoClips(clips)
    assert [Path(source.name(index)).stem for index in range(len(source))] == ["10", "a", "z"]
    assert [source.label(0, frames)[0] for frames in (range(3, 6), range(7, 9))] == ["a grey of 80", "a grey of 160"]
    assert source.dropped == {"without a caption": 1}


def test_hdvila_takes_captions_of_cut_clips_for_the_frames_that_they_describe(tmp_path: Path, grey: None) -> None:
    """A clip that lost its first scene keeps the frames of its captions; those of a whole span move."""
    flash = np.concatenate([np.full((9, 48, 64, 3), 255, np.uint8), ramp(20, step=10)])
    write_source(tmp_path / "videos" / "a.mp4", flash, 10)
    write_metadata(tmp_path / "hdvila_part3.jsonl", {"a": [(0, 2.9, "the speech")]})
    videos, _ = find_videos(tmp_path / "hdvila_part3.jsonl", tmp_path / "videos")
    job = Cutting(tmp_path / "out", Rules(min_frames=8))
    cut_video(videos[0], job)
    write_manifest(job.out, videos, None)
    main([str(job.out), str(tmp_path / "captions.jsonl"), "--every", "8"])
    write_manifest(job.out, videos, tmp_path / "captions.jsonl")
    (row,) = rows_of(job.out / "manifest.jsonl")
    assert row == {
        "video": "part_3/video_clips/a.0.mp4",
        "caption": [{"frame": 8, "caption": "a grey of 80"}, {"frame": 16, "caption": "a grey of 160"}],
    }


def test_people_in_a_manifest_of_images_stay(clips: Path, grey: None) -> None:
    row = {"image": "still.png", "caption": "old", "people": [], "width": 64, "height": 48}
    (clips / "manifest.jsonl").write_text(json.dumps(row))
    Image.fromarray(ramp(2, step=50)[1]).save(clips / "still.png")
    main([str(clips), str(clips.parent / "out.jsonl")])
    assert rows_of(clips.parent / "out.jsonl") == [row | {"caption": "a grey of 50"}]


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["out.txt"], "out.txt: expected a name that ends in .jsonl"),
        (["out.jsonl", "--frames", "0"], "--frames: got 0"),
        (["out.jsonl", "--every", "0"], "--every: got 0"),
        (["out.jsonl", "--batch", "-1"], "--batch: got -1"),
        (["out.jsonl"], "holds no videos or images, expected .mp4"),
        (["out.jsonl", "--model", "nowhere"], "holds no videos or images"),
    ],
)
def test_bad_arguments_are_one_error(tmp_path: Path, grey: None, flags: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        main([str(tmp_path), str(tmp_path / flags[0]), *flags[1:]])
    assert not list(tmp_path.iterdir())


def test_a_line_of_another_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"video": "a.mp4"}\n{"video": 3}')
    with pytest.raises(ValueError, match=r"manifest.jsonl: line 2: expected an object with video or image"):
        find_files(tmp_path, tmp_path / "out.jsonl")
