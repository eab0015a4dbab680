"""HD-VILA: clips are exactly the frames of their spans; cut, dropped and unreadable ones are counted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from data_prep.captions import read_captions, shifted
from data_prep.ffmpeg import Look, cut, look
from data_prep.hdvila import Cutting, Rules, cut_video, find_videos, main, write_manifest
from followyourpose.data.prepared import add_up, stats_files
from followyourpose.data.video_clips import VideoClips
from followyourpose.data.video_io import probe, read_frames
from followyourpose.puppets.world import Scene, render_scene, sample_scene
from followyourpose.training.loop import train
from tests.downloads import ffmpeg, ramp, run_script, write_metadata, write_source
from tests.runs import STAGE2, contents, log_of, settings

FPS, FRAMES = 25, 60
SMALL = Rules(min_frames=8)


def scene(seed: int) -> Scene:
    return sample_scene(np.random.default_rng(seed), two=0)


def dance(seed: int, frames: int) -> np.ndarray:
    """Frames (f, 64, 96, 3) of a moving puppet."""
    return render_scene(scene(seed), frames, 64, 96)[0]


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = 2.0) -> bool:
    """Whether two videos have the same frames: consecutive frames of `ramp` differ by 3."""
    return got.shape == expected.shape and np.abs(got.astype(float) - expected).mean((1, 2, 3)).max() < tolerance


def prepare(folder: Path, spans: dict[str, list[tuple]], rules: Rules = SMALL) -> dict:
    """Cut the videos in `folder`/videos into `folder`/out; return the sum of their stats."""
    write_metadata(folder / "hdvila_part0.jsonl", spans)
    videos, _ = find_videos(folder / "hdvila_part0.jsonl", folder / "videos")
    job = Cutting(folder / "out", rules)
    for video in videos:
        cut_video(video, job)
        assert job.is_done(video)
    write_manifest(folder / "out", videos, None)
    return add_up(stats_files(folder / "out"))


# ---- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", ()),
        ("ten-bit.mp4", ("-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv420p10le")),
        ("full-colour.mkv", ("-c:v", "ffv1", "-pix_fmt", "yuv444p")),
        ("vp9.webm", ("-c:v", "libvpx-vp9", "-crf", "8", "-b:v", "0")),
        ("old.avi", ("-c:v", "mpeg4", "-q:v", "2")),
    ],
)
def test_a_clip_is_exactly_the_frames_of_its_span(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    video = write_source(tmp_path / name, ramp(FRAMES), FPS, *options)
    seen = look(video)
    assert len(seen.times) == FRAMES and np.allclose(seen.times, np.arange(FRAMES) / FPS, atol=2e-3)
    spans = [seen.frames(0, 0.5), seen.frames(0.8, 1.6), seen.frames(1.39, 99)]
    assert spans == [(0, 13), (20, 40), (35, FRAMES)]
    cut(video, spans, [tmp_path / f"{i}.mp4" for i in range(3)], 512)
    for index, (first, end) in enumerate(spans):
        assert close(read_frames(tmp_path / f"{index}.mp4"), ramp(FRAMES)[first:end])


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    video = write_source(tmp_path / "phone.mp4", ramp(FRAMES), FPS)
    ffmpeg("-display_rotation", "90", "-i", video, "-c", "copy", tmp_path / "turned.mp4")
    cut(tmp_path / "turned.mp4", [(10, 30)], [tmp_path / "clip.mp4"], 512)
    assert close(read_frames(tmp_path / "clip.mp4"), np.rot90(ramp(FRAMES)[10:30], axes=(1, 2)))


def test_a_variable_rate_keeps_every_frame_once_at_its_time(tmp_path: Path) -> None:
    video = write_source(tmp_path / "even.mp4", ramp(FRAMES), FPS)
    slower = "setpts='if(lt(N,20),N*0.04,0.8+(N-20)*0.1)/TB'"  # from frame 20 on 10 in a second
    ffmpeg(
        "-i", video, "-vf", slower, "-fps_mode", "vfr", "-enc_time_base", "1:1000", "-crf", "4", tmp_path / "vfr.mp4"
    )
    seen = look(tmp_path / "vfr.mp4")
    assert seen.frames(0.4, 1.25) == (10, 25)
    cut(tmp_path / "vfr.mp4", [(10, 25)], [tmp_path / "clip.mp4"], 512)
    assert close(read_frames(tmp_path / "clip.mp4"), ramp(FRAMES)[10:25])
    assert np.allclose(look(tmp_path / "clip.mp4").times, seen.times[10:25] - seen.times[10], atol=2e-3)


def test_an_odd_size_loses_its_last_row_and_column(tmp_path: Path) -> None:
    options = ("-c:v", "ffv1", "-pix_fmt", "yuv444p")
    video = write_source(tmp_path / "odd.mkv", ramp(20, 47, 63), FPS, *options)
    cut(video, [(0, 20)], [tmp_path / "clip.mp4"], 512)
    assert close(read_frames(tmp_path / "clip.mp4"), ramp(20, 47, 63)[:, :46, :62])


def test_a_larger_video_is_shrunk_to_its_smaller_side(tmp_path: Path) -> None:
    video = write_source(tmp_path / "large.mp4", ramp(10, 96, 128), FPS)
    cut(video, [(0, 10)], [tmp_path / "clip.mp4"], 48)
    info = probe(tmp_path / "clip.mp4")
    assert (info.height, info.width) == (48, 64)


def test_a_long_list_of_clips_is_written_in_several_calls(tmp_path: Path) -> None:
    video = write_source(tmp_path / "video.mp4", ramp(FRAMES), FPS)
    spans = [(first, first + 10) for first in range(40)]
    cut(video, spans, [tmp_path / f"{first}.mp4" for first, _ in spans], 512)
    assert all(close(read_frames(tmp_path / f"{first}.mp4"), ramp(FRAMES)[first:end]) for first, end in spans)


def test_a_scene_ends_where_the_picture_jumps_and_not_in_motion() -> None:
    jump = np.zeros(30)
    jump[[10, 22]] = 20
    seen = Look(np.arange(30) / 10, np.full(30, 5.0), jump)
    assert seen.longest_scene(0, 30, 8) == (10, 22)
    assert seen.longest_scene(10, 30, 8) == (10, 22) and seen.longest_scene(10, 15, 8) == (10, 15)
    assert seen.longest_scene(0, 30, 25) == (0, 30)


# ---- from videos to a data set ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`videos` and `hdvila_part0.jsonl`: two scenes and a still picture, another video, and one that is not there."""
    folder = tmp_path_factory.mktemp("filmed")
    first, second = dance(1, 40), dance(4, 40)
    still = np.repeat(second[-1:], 40, axis=0)
    write_source(folder / "videos" / "a-B_c.mp4", np.concatenate([first, second, still]), FPS)
    write_source(folder / "videos" / "more" / "-dash.webm", dance(2, 40), FPS, "-c:v", "libvpx-vp9", "-b:v", "1M")
    spans = {
        "a-B_c": [
            (0.4, 1.4, scene(1).caption), (1.2, 2.8, "crosses the cut"), (3.4, 4.6, "still"), (0.2, 0.4, "too short"),
            (1.4, 1.88, "too short on both sides"), (60, 62, "beyond the end"),
        ],
        "-dash": [(0, 1.0)],
        "gone": [(0, 3)],
    }  # fmt: skip
    write_metadata(folder / "hdvila_part0.jsonl", spans)
    return folder


@pytest.fixture(scope="module")
def prepared(filmed: Path) -> Path:
    arguments = (filmed / "hdvila_part0.jsonl", filmed / "videos", filmed / "out", "--min-frames", "8")
    done = run_script("hdvila", *arguments, "--workers", "2")
    assert "3 videos in the metadata, 1 of them not in" in done.stdout
    return filmed / "out"


def test_clips_are_kept_cut_or_dropped_with_counts(prepared: Path) -> None:
    total = add_up(stats_files(prepared))
    assert total["read"] == 7 and total["kept"] == 3 and total["cut at scenes"] == 1
    assert total["dropped"] == {
        "beyond the video's end": 1, "nearly still": 1, "too short": 1, "with too short scenes": 1,
    }  # fmt: skip
    clips = sorted(file.name for file in (prepared / "part_0" / "video_clips").iterdir())
    assert clips == ["-dash.0.mp4", "a-B_c.0.mp4", "a-B_c.1.mp4"]


def test_a_clip_that_crosses_a_cut_keeps_its_longest_scene(prepared: Path) -> None:
    clip = read_frames(prepared / "part_0" / "video_clips" / "a-B_c.1.mp4")
    assert close(clip, dance(4, 40)[:30], tolerance=6)


def test_training_reads_the_manifest(prepared: Path) -> None:
    source = VideoClips(prepared)
    assert len(source) == 2 and source.dropped == {"without a caption": 1}
    assert source.label(0, range(8)) == (scene(1).caption, None) and source.num_frames(0) == 25
    assert close(source.read(0, range(8)), dance(1, 40)[10:18], tolerance=6)


def test_stage_2_trains_on_the_output(world: Path, prepared: Path, tmp_path: Path) -> None:
    run = train(settings(world, tmp_path / "run", STAGE2, f"data.path={prepared}"))
    assert len(log_of(run)) == 2 and (run / "weights.safetensors").is_file()


def test_captions_that_come_later_need_no_new_cut(filmed: Path, prepared: Path, tmp_path: Path) -> None:
    before = {name: content for name, content in contents(prepared).items() if name != "manifest.jsonl"}
    text = tmp_path / "hdvila_clip_text_100m.jsonl"
    rows = [("a-B_c.1.mp4", "ça va 舞"), ("-dash.0.mp4", "late"), ("other.0.mp4", "elsewhere")]
    text.write_text("".join(json.dumps({"clip_id": clip, "text": caption}) + "\n" for clip, caption in rows))
    arguments = (filmed / "hdvila_part0.jsonl", filmed / "videos", prepared, "--min-frames", "8", "--captions")
    assert "2 done before" in run_script("hdvila", *arguments, text).stdout
    source = VideoClips(prepared)
    captions = {Path(source.name(i)).name: source.label(i, [0])[0] for i in range(len(source))}
    assert captions == {"a-B_c.0.mp4": scene(1).caption, "a-B_c.1.mp4": "ça va 舞", "-dash.0.mp4": "late"}
    table = tmp_path / "captions.csv"
    table.write_text("part_id,clip_id,caption\n0,a-B_c.1,first\n0,a-B_c.1,second\n")
    run_script("hdvila", *arguments, table)
    rows = [json.loads(line) for line in (prepared / "manifest.jsonl").read_text().splitlines()]
    assert rows[1] == {"video": "part_0/video_clips/a-B_c.1.mp4", "caption": [{"frame": 0, "caption": "first"}]}
    run_script("hdvila", *arguments[:-1])
    assert {name: content for name, content in contents(prepared).items() if name != "manifest.jsonl"} == before


def test_every_runner_writes_the_same_bytes(filmed: Path, prepared: Path, tmp_path: Path) -> None:
    arguments = (filmed / "hdvila_part0.jsonl", filmed / "videos", tmp_path / "out", "--min-frames", "8")
    for task in ("1", "0"):
        array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
        assert "without --runner slurm" in run_script("hdvila", *arguments, "--runner", "slurm", **array).stdout
    assert not (tmp_path / "out" / "manifest.jsonl").exists()  # other tasks may be at work
    run_script("hdvila", *arguments)
    assert contents(tmp_path / "out") == contents(prepared)


def test_the_rest_of_a_killed_run_is_done_again_and_nothing_else(
    filmed: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between any two steps leaves the clips of a video without its stats file, and a folder of parts."""
    videos, _ = find_videos(filmed / "hdvila_part0.jsonl", filmed / "videos")
    job = Cutting(tmp_path / "out", SMALL)
    for video in videos:
        cut_video(video, job)
    (tmp_path / "out" / videos[0].stats).unlink()
    rest = tmp_path / "out" / f".{videos[0].stats.replace('/', '-')}.elsewhere.123.partial"
    rest.mkdir()
    (rest / "half.mp4").write_bytes(b"half")
    cut_video(next(video for video in videos if not job.is_done(video)), job)
    write_manifest(job.out, videos, None)
    assert contents(job.out) == contents(prepared)


@pytest.mark.parametrize(
    ("captions", "skipped", "expected"),
    [
        ([(0, "a"), (64, "b"), (128, "c")], 0, [(0, "a"), (64, "b")]),
        ([(0, "a"), (64, "b"), (128, "c")], 60, [(4, "b"), (68, "c")]),
        ([(0, "a")], 40, [(0, "a")]),
    ],
)
def test_captions_of_frames_move_with_the_cut(captions: list, skipped: int, expected: list) -> None:
    assert [(row["frame"], row["caption"]) for row in shifted(captions, skipped, 100)] == expected


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_files_without_pictures_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    video = write_source(folder / "good.mp4", dance(1, 20), FPS)
    (folder / "text.mp4").write_text("this is no video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "half.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "sound.mp4")
    spans = {name: [(0, 0.8)] for name in ("good", "text", "empty", "half", "sound")}
    total = prepare(tmp_path, spans)
    assert total["read"] == 5 and total["kept"] == 1
    assert total["dropped"] == {"in a video that cannot be decoded": 4}
    error = json.loads((tmp_path / "out" / "part_0" / "stats" / "sound_stats.json").read_text())["error"]
    assert "matches no streams" in error


def test_a_damaged_video_gives_the_clips_before_the_damage(tmp_path: Path) -> None:
    options = ("-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv420p", "-g", "10")
    video = write_source(tmp_path / "videos" / "cut.mkv", dance(1, 60), FPS, *options)
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 3 // 5])
    total = prepare(tmp_path, {"cut": [(0, 0.8), (2.0, 2.4)]})
    assert total["kept"] == 1 and total["dropped"] == {"beyond the video's end": 1}


def test_names_and_folders_may_be_in_any_script(tmp_path: Path) -> None:
    folder = tmp_path / "vidéos 舞"
    write_source(folder / "videos" / "танец.mp4", dance(1, 20), FPS)
    assert prepare(folder, {"танец": [(0, 0.8, "舞者")]})["kept"] == 1
    source = VideoClips(folder / "out")
    assert source.label(0, [0])[0] == "舞者" and source.read(0, [0, 19]).shape == (2, 64, 96, 3)


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", '{"video_id": "a"}', '{"video_id": "a", "clip": [{"clip_id": "a.0.mp4"}]}',
        '{"video_id": "a", "clip": [{"clip_id": "a.0.mp4", "span": ["x", "y"]}]}',
        '{"video_id": "../a", "clip": []}', '{"video_id": "a", "clip": [{"clip_id": "/b.mp4", "span": [0, 1]}]}',
        '{"video_id": "a\\u0000", "clip": []}', '{"video_id": "\\ud83d", "clip": []}',
    ],
)  # fmt: skip
def test_a_bad_line_of_the_metadata_is_named(tmp_path: Path, line: str) -> None:
    file = write_metadata(tmp_path / "hdvila_part0.jsonl", {"good": [(0, 1)]})
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(line + "\n")
    with pytest.raises(ValueError, match="hdvila_part0.jsonl: line 2: expected video_id and clip"):
        find_videos(file, tmp_path)


def test_spans_without_bounds_and_repeated_names_are_counted_clips(tmp_path: Path) -> None:
    write_source(tmp_path / "videos" / "a.mp4", dance(1, 20), FPS)
    spans = [
        "[0, 0.8]",
        "[0, Infinity]",
        "[NaN, 1]",
        f"[0, {'9' * 400}]",
        f'["{"9" * 400}:00:00", 1]',
        "[-Infinity, 1]",
    ]
    clips = [f'{{"clip_id": "a.{index}.mp4", "span": {span}}}' for index, span in enumerate(spans)]
    again = [clips[0], '{"clip_id": "a.0.mp4", "span": [0.1, 0.5]}']  # the same again is the same clip, another is not
    line = f'{{"video_id": "a", "clip": [{", ".join([*clips, *again])}]}}'
    (tmp_path / "hdvila_part0.jsonl").write_text(line)
    (video,), _ = find_videos(tmp_path / "hdvila_part0.jsonl", tmp_path / "videos")
    cut_video(video, Cutting(tmp_path / "out", SMALL))
    total = add_up(stats_files(tmp_path / "out"))
    assert (total["read"], total["kept"]) == (7, 1)
    assert total["dropped"] == {"with a clip_id of another clip": 1, "with a span that is no time": 5}


def test_a_line_that_is_nested_too_deeply_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_source(tmp_path / "videos" / "a.mp4", dance(1, 20), FPS)
    file = write_metadata(tmp_path / "hdvila_part0.jsonl", {"a": [(0, 0.8)]})
    file.write_bytes(b"[" * 100_000 + b"\n" + file.read_bytes())
    (video,), missing = find_videos(file, tmp_path / "videos")
    assert (video.id, missing) == ("a", 1)
    assert "hdvila_part0.jsonl: line 1: nested too deeply; left out" in capsys.readouterr().err


def test_byte_order_marks_and_line_separators_in_text_are_read(tmp_path: Path) -> None:
    """A line of JSON ends at a line feed, not at the other characters that Python splits lines at."""
    write_source(tmp_path / "videos" / "a.mp4", dance(1, 20), FPS)
    text = "one\x85two\u2028three\x0c"
    clip = json.dumps({"clip_id": "a.0", "span": [0, 0.8], "text": text}, ensure_ascii=False)
    metadata = tmp_path / "hdvila_part0.jsonl"
    metadata.write_text(f'{{"video_id": "a", "clip": [{clip}]}}\n', encoding="utf-8-sig")
    videos, _ = find_videos(metadata, tmp_path / "videos")
    cut_video(videos[0], Cutting(tmp_path / "out", SMALL))
    write_manifest(tmp_path / "out", videos, None)
    assert VideoClips(tmp_path / "out").label(0, [0])[0].split() == text.split()
    captions, table = tmp_path / "captions.jsonl", tmp_path / "captions.csv"
    captions.write_text(json.dumps({"clip_id": "a.0", "text": text}, ensure_ascii=False), encoding="utf-8-sig")
    table.write_text("part_id,clip_id,caption\n0,a.0,a robot\n", encoding="utf-8-sig")
    assert read_captions(captions, {("part_0", "a.0")}) == {("part_0", "a.0"): text}
    assert read_captions(table, {("part_0", "a.0")}) == {("part_0", "a.0"): [(0, "a robot")]}


def test_captions_belong_to_the_clip_of_their_part(tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("part_id,clip_id,caption\n0,a.0,first\n1,a.0,second\n")
    clips = {("part_0", "a.0"): [(0, "first")], ("part_1", "a.0"): [(0, "second")]}
    assert read_captions(table, set(clips)) == clips
    assert read_captions(table, {("other", "a.0")}) == {("other", "a.0"): [(0, "second")]}


def test_half_an_emoji_in_a_caption_is_one_bad_sample(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_source(tmp_path / "videos" / "a.mp4", dance(1, 40), FPS)
    total = prepare(tmp_path, {"a": [(0, 0.8, "whole \U0001f600"), (0.8, 1.6, "half \ud83d")]})
    assert total["kept"] == 2
    assert "captions left out: 1 with half a character (part_0/video_clips/a.1.mp4)" in capsys.readouterr().out
    source = VideoClips(tmp_path / "out")
    assert len(source) == 1 and source.dropped == {"without a caption": 1}
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"clip_id": "a.0", "caption": "half \\ud83d"}\n{"clip_id": "a.1", "caption": "late"}\n')
    videos, _ = find_videos(tmp_path / "hdvila_part0.jsonl", tmp_path / "videos")
    write_manifest(tmp_path / "out", videos, captions)
    assert VideoClips(tmp_path / "out").label(0, [0])[0] == "late"


@pytest.mark.parametrize("line", ["{", "[]", '{"clip_id": 3, "text": ""}', '{"text": ""}', "[" * 100_000, "9" * 5000])
def test_a_bad_line_of_captions_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "captions.jsonl").write_text('{"clip_id": "a.0", "text": null}\n' + line)
    with pytest.raises(ValueError, match=r"captions.jsonl: line 2: (not JSON|expected an object with clip_id)"):
        read_captions(tmp_path / "captions.jsonl", set())


def test_a_video_that_was_cut_with_other_settings_stops_the_run_by_name(tmp_path: Path) -> None:
    write_source(tmp_path / "videos" / "a.mp4", dance(1, 20), FPS)
    prepare(tmp_path, {"a": [(0, 0.8)]})
    (video,), _ = find_videos(tmp_path / "hdvila_part0.jsonl", tmp_path / "videos")
    with pytest.raises(ValueError, match="a_stats.json: min_frames: was done with 8, got 32 now"):
        Cutting(tmp_path / "out").is_done(video)
    write_metadata(tmp_path / "hdvila_part0.jsonl", {"a": [(0, 0.4)]})
    with pytest.raises(ValueError, match="hash of the metadata"):
        Cutting(tmp_path / "out", SMALL).is_done(video)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadata": "none.jsonl"}, "none.jsonl"),
        ({"videos": "nowhere"}, "holds none of the videos of"),
        ({"flags": ["--captions", "none.csv"]}, "none.csv: no such file"),
        (
            {"flags": ["--captions", "commas.csv"]},
            "commas.csv: line 2: got 4 fields, expected 3; a caption with a comma",
        ),
        ({"flags": ["--captions", "hdvila_part0.jsonl"]}, "jsonl: line 1: expected an object with clip_id and text"),
        ({"flags": ["--min-frames", "0"]}, "--min-frames: got 0"),
        ({"flags": ["--max-jump", "nan"]}, "--max-jump: got nan"),
    ],
)
def test_bad_arguments_are_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_metadata(tmp_path / "hdvila_part0.jsonl", {"a": [(0, 1)]})
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    (tmp_path / "commas.csv").write_text("part_id,clip_id,caption\n0,a.0,a robot, dancing\n")
    with pytest.raises((ValueError, OSError), match=reason):
        main([change.get("metadata", "."), change.get("videos", "videos"), "out", *change.get("flags", [])])
    assert not (tmp_path / "out").exists()


def test_an_error_in_a_worker_is_one_line(tmp_path: Path) -> None:
    """Nothing of the pool's end is printed behind it."""
    for name in "ab":
        write_source(tmp_path / "videos" / f"{name}.mp4", dance(1, 20), FPS)
    write_metadata(tmp_path / "hdvila_part0.jsonl", {"a": [(0, 0.8)], "b": [(0, 0.8)]})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part_0").touch()
    arguments = (tmp_path / "hdvila_part0.jsonl", tmp_path / "videos", tmp_path / "out", "--workers", "2")
    error = run_script("hdvila", *arguments, code=2).stderr
    assert error.startswith("hdvila: error: ") and "part_0" in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob(".*"))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    write_source(tmp_path / "videos" / "a.mp4", dance(1, 20), FPS)
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="out.*cannot be read or written"):
        prepare(tmp_path, {"a": [(0, 0.8)]})
    (tmp_path / "out").unlink()
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "out").mkdir(mode=0o500)
        with pytest.raises(ValueError, match="Permission denied"):
            prepare(tmp_path, {"a": [(0, 0.8)]})
