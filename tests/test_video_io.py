"""Reading and writing frames: a file gives the frames that it shows, and a bad file one line with its name."""

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from followyourpose.data.video_io import (
    VideoError,
    gif_writer,
    probe,
    read_frames,
    stream_frames,
    video_writer,
    write_gif,
    write_video,
)

FRAMES, HEIGHT, WIDTH = 12, 48, 64


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Frames whose brightness is their number, with a white corner that moves when they are turned."""
    clip = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    clip[:] = (20 * np.arange(FRAMES))[:, None, None, None]
    clip[:, :16, :16] = 255
    return clip


@pytest.fixture(scope="module")
def video(frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, frames, fps=8)
    return path


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape and got.dtype == np.uint8
    assert np.abs(got.astype(int) - expected).mean() < 3


def test_a_video_gives_back_the_frames_that_were_written(video: Path, frames: np.ndarray) -> None:
    info = probe(video)
    assert (info.num_frames, info.fps, info.height, info.width) == (FRAMES, 8.0, HEIGHT, WIDTH)
    assert_close(read_frames(video), frames)


def test_indices_come_in_the_order_asked_for(video: Path, frames: np.ndarray) -> None:
    assert_close(read_frames(video, [5, 2, 5]), frames[[5, 2, 5]])
    assert_close(read_frames(video, slice(1, None, 4)), frames[1::4])


def test_a_gif_gives_the_frames_that_were_written(tmp_path: Path, frames: np.ndarray) -> None:
    write_gif(tmp_path / "clip.gif", frames, fps=10)
    info = probe(tmp_path / "clip.gif")
    assert (info.num_frames, info.fps, info.height, info.width) == (FRAMES, 10.0, HEIGHT, WIDTH)
    assert_close(read_frames(tmp_path / "clip.gif", [3, 0]), frames[[3, 0]])


def test_a_folder_is_read_in_natural_order(tmp_path: Path, frames: np.ndarray) -> None:
    for index in range(FRAMES):
        Image.fromarray(frames[index]).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    assert probe(tmp_path).fps is None
    np.testing.assert_array_equal(read_frames(tmp_path), frames)


def test_transparency_becomes_black(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "0.png")
    assert read_frames(tmp_path).max() == 0


def test_odd_sizes_are_padded_to_even_by_their_edge(tmp_path: Path, frames: np.ndarray) -> None:
    write_video(tmp_path / "odd.mp4", frames[:, :47, :63], fps=8)
    assert_close(
        read_frames(tmp_path / "odd.mp4"), np.pad(frames[:, :47, :63], ((0, 0), (0, 1), (0, 1), (0, 0)), "edge")
    )


def test_written_videos_play_in_a_browser(video: Path) -> None:
    content = video.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # its index first: plays while it loads
    listing = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(video)], capture_output=True, text=True).stderr
    assert "h264" in listing and "yuv420p" in listing


def test_hidden_frames_are_left_out_and_turned_ones_turned(video: Path, frames: np.ndarray, tmp_path: Path) -> None:
    ffmpeg("-ss", "0.5", "-i", video, "-c", "copy", tmp_path / "cut.mp4")  # an edit list hides the first 4 frames
    assert_close(read_frames(tmp_path / "cut.mp4"), frames[4:])
    ffmpeg("-display_rotation", "90", "-i", video, "-c", "copy", tmp_path / "turned.mp4")
    assert_close(read_frames(tmp_path / "turned.mp4", [3, 7]), np.rot90(frames[[3, 7]], axes=(1, 2)))
    assert probe(tmp_path / "turned.mp4").height == WIDTH


# Name of a file -> how ffmpeg makes it of the clip: what cameras, phones and web sites make.
KINDS = {
    "turned-90.mp4": ["-display_rotation", "90", "-i", "CLIP", "-c", "copy"],
    "turned-180.mp4": ["-display_rotation", "180", "-i", "CLIP", "-c", "copy"],
    "turned-270.mov": ["-display_rotation", "270", "-i", "CLIP", "-c", "copy"],
    "variable-rate.mp4": ["-i", "CLIP", "-vf", "setpts='(N+N*N/9)/8/TB'", "-fps_mode", "vfr", "-crf", "10"],
    "dropped-frames.mkv": ["-i", "CLIP", "-vf", "select='mod(n,5)-2'", "-fps_mode", "vfr", "-crf", "10"],
    "odd.webm": ["-i", "CLIP", "-vf", "crop=63:47:0:0", "-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0"],
    "odd.mp4": ["-i", "CLIP", "-vf", "crop=63:47:0:0", "-pix_fmt", "yuv444p", "-crf", "10"],
    "ten-bit.mp4": ["-i", "CLIP", "-pix_fmt", "yuv420p10le", "-crf", "10"],
    "hevc.mp4": ["-i", "CLIP", "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=0:crf=10"],
    "av1.mp4": ["-i", "CLIP", "-c:v", "libsvtav1", "-crf", "10", "-svtav1-params", "lookahead=0"],
    "with-sound.mp4": ["-f", "lavfi", "-i", "sine", "-i", "CLIP", "-c:v", "copy", "-c:a", "aac", "-shortest"],
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_any_video_gives_the_frames_that_ffmpeg_gives(video: Path, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    ffmpeg(*(video if argument == "CLIP" else argument for argument in KINDS[name]), path)
    info = probe(path)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-fps_mode", "passthrough"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, capture_output=True).stdout
    expected = np.frombuffer(raw, np.uint8).reshape(-1, info.height, info.width, 3)
    assert info.num_frames == len(expected) and info.fps > 0
    assert ("turned" in name and "180" not in name) == (info.height > info.width)
    assert_close(read_frames(path), expected)
    assert_close(read_frames(path, [7, 2]), expected[[7, 2]])
    assert_close(np.concatenate(list(stream_frames(path, at_most=5))), expected)


@pytest.mark.parametrize("name", ["clip.mp4", "turned.mp4", "clip.gif", "images"])
def test_streaming_gives_every_frame_once_in_chunks(
    video: Path, frames: np.ndarray, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if name == "images":
        path.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(path / f"{index}.png")
    elif name == "clip.gif":
        write_gif(path, frames, fps=8)
    else:
        ffmpeg(*(["-display_rotation", "90"] if "turned" in name else []), "-i", video, "-c", "copy", path)
    chunks = list(stream_frames(path, at_most=5))
    assert [len(chunk) for chunk in chunks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate(chunks), read_frames(path))
    np.testing.assert_array_equal(np.concatenate(list(stream_frames(path, range(3, 9)))), read_frames(path)[3:9])
    monkeypatch.setattr("followyourpose.data.video_io._CHUNK_BYTES", 2 * 3 * HEIGHT * WIDTH)
    assert [len(chunk) for chunk in stream_frames(path)] == [2] * 6


def test_an_image_is_one_frame(tmp_path: Path, frames: np.ndarray) -> None:
    Image.fromarray(frames[0]).save(tmp_path / "one.png")
    assert probe(tmp_path / "one.png").num_frames == 1 and probe(tmp_path / "one.png").fps is None
    np.testing.assert_array_equal(read_frames(tmp_path / "one.png"), frames[:1])


def test_a_file_of_sound_only_is_refused(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "song.mp4")
    with pytest.raises(VideoError, match=r"song\.mp4: holds no video, only audio"):
        probe(tmp_path / "song.mp4")


def test_a_video_is_written_piece_by_piece(tmp_path: Path, frames: np.ndarray) -> None:
    write_video(tmp_path / "whole.mp4", frames[:, :47, :63], fps=8)
    with video_writer(tmp_path / "pieces.mp4", 47, 63, fps=8) as write:
        write(frames[:5, :47, :63])
        write(frames[5:, :47, :63])
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_video_that_is_not_finished_does_not_appear(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(KeyboardInterrupt), video_writer(tmp_path / "half.mp4", HEIGHT, WIDTH, fps=8) as write:
        write(frames)
        raise KeyboardInterrupt
    with (
        pytest.raises(VideoError, match=r"half\.mp4: got frames \(12, 48, 60, 3\), expected \(f, 48, 64, 3\)"),
        video_writer(tmp_path / "half.mp4", HEIGHT, WIDTH, fps=8) as write,
    ):
        write(frames[:, :, :60])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.mp4", None, "no such file"),
        ("text.mp4", b"this is no video", "not a video"),
        ("empty.mp4", b"", "an empty file"),
        ("song.mp3", b"ID3", "expected a video (.mp4"),
        ("broken.gif", b"GIF89a", "cannot be read"),
        ("folder", {}, "no frames"),
        ("images", {"0.png": b"no image"}, "cannot be read"),
        ("image.png", b"no image", "cannot be read"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, name: str, content: object, reason: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        path.mkdir()
        for file, data in content.items():
            (path / file).write_bytes(data)
    for use in (probe, read_frames):
        with pytest.raises(VideoError) as error:
            use(path)
        assert str(path) in str(error.value) and reason in str(error.value) and "\n" not in str(error.value)


def test_a_video_cut_short_is_refused_without_noise(video: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    ffmpeg("-i", video, "-c", "copy", tmp_path / "late-index.mp4")
    content = (tmp_path / "late-index.mp4").read_bytes()
    (tmp_path / "short.mp4").write_bytes(content[: content.index(b"moov")])
    with pytest.raises(VideoError, match="cut short"):
        probe(tmp_path / "short.mp4")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("indices", [[FRAMES], [-1], []])
def test_indices_beyond_the_video_are_refused(video: Path, indices: list[int]) -> None:
    with pytest.raises(VideoError, match=f"from 0 to {FRAMES - 1}"):
        read_frames(video, indices)


def test_images_of_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    with pytest.raises(VideoError, match=r"1\.png: got 8 x 6 pixels, expected 8 x 8"):
        read_frames(tmp_path)


def test_writing_refuses_what_is_no_clip(tmp_path: Path, frames: np.ndarray) -> None:
    for bad in (frames[:0], frames[0], frames.astype(float)):
        with pytest.raises(VideoError, match="expected at least one"):
            write_video(tmp_path / "bad.mp4", bad, fps=8)
    with pytest.raises(VideoError, match="ends in .mp4"):
        write_video(tmp_path / "bad.avi", frames, fps=8)
    with pytest.raises(VideoError, match="more than 0"):
        write_gif(tmp_path / "bad.gif", frames, fps=0)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, frames: np.ndarray) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="cannot be written"):
        write_video(tmp_path / "file" / "clip.mp4", frames, fps=8)


def test_importing_loads_no_reader() -> None:
    code = "import sys, followyourpose.data.video_io; print({'av', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_gif_is_written_piece_by_piece(tmp_path: Path, frames: np.ndarray) -> None:
    clip = np.repeat(frames, [1, 3, *[1] * (FRAMES - 2)], axis=0)
    write_gif(tmp_path / "whole.gif", clip, fps=10)
    with gif_writer(tmp_path / "pieces.gif", HEIGHT, WIDTH, fps=10) as write:
        write(clip[:2])
        write(clip[2:])
    assert (tmp_path / "pieces.gif").read_bytes() == (tmp_path / "whole.gif").read_bytes()
    with Image.open(tmp_path / "pieces.gif") as image:
        shown = [(np.asarray(each.convert("RGB")), each.info["duration"]) for each in ImageSequence.Iterator(image)]
        assert image.info["loop"] == 0
    assert [duration for _, duration in shown] == [100, 300] + [100] * (FRAMES - 2)
    assert_close(np.stack([each for each, _ in shown]), frames)


GROWING = """
import os, signal, sys, time
import numpy as np
from followyourpose.data.video_io import growing_video
with growing_video(sys.argv[1], 47, 64, fps=8) as write:
    for value in range(0, 200, 10):
        write(np.full((1, 47, 64, 3), value, np.uint8))
        time.sleep(0.02)
    time.sleep(1)
    os.killpg(0, signal.SIGKILL)
"""


def test_a_growing_video_plays_after_everything_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", GROWING, str(tmp_path / "growing.mp4")]
    subprocess.run(command, cwd=Path(__file__).parents[1], start_new_session=True)
    info = probe(tmp_path / "growing.mp4")
    assert (info.fps, info.height, info.width) == (8.0, 48, 64) and info.num_frames >= 18
    values = read_frames(tmp_path / "growing.mp4").mean((1, 2, 3))
    assert len(values) >= info.num_frames  # the last part's header may lack a frame that was written
    np.testing.assert_allclose(values, 10 * np.arange(len(values)), atol=4)
