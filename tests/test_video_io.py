"""Reading and writing frames: a file gives the frames that it shows, and a bad file one line with its name."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageOps, ImageSequence

from followyourpose.data import video_io
from followyourpose.data.images import image_size, read_image
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
from followyourpose.data.video_readers import reader_for

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


def test_frames_hidden_by_an_edit_list_are_left_out(video: Path, frames: np.ndarray, tmp_path: Path) -> None:
    ffmpeg("-ss", "0.5", "-i", video, "-c", "copy", tmp_path / "cut.mp4")  # from the fifth frame on
    assert_close(read_frames(tmp_path / "cut.mp4"), frames[4:])


X265 = "log-level=0:crf=10:open-gop=1:keyint=6:min-keyint=6:scenecut=0"
# Name of a file -> ffmpeg's options to make it of the clip: the files of cameras, phones and web sites.
KINDS = {
    "turned-90.mp4": ["-display_rotation", "90", "-i", "CLIP", "-c", "copy"],
    "turned-180.mp4": ["-display_rotation", "180", "-i", "CLIP", "-c", "copy"],
    "turned-270.mov": ["-display_rotation", "270", "-i", "CLIP", "-c", "copy"],
    "mirrored.mp4": ["-display_hflip", "-i", "CLIP", "-c", "copy"],
    "upside-down.mov": ["-display_vflip", "-i", "CLIP", "-c", "copy"],
    "turned-90-mirrored.mp4": ["-display_rotation", "90", "-display_hflip", "-i", "CLIP", "-c", "copy"],
    "turned-270-mirrored.mkv": ["-display_rotation", "270", "-display_vflip", "-i", "CLIP", "-c", "copy"],
    "wide-pixels.mp4": ["-i", "CLIP", "-vf", "setsar=2", "-pix_fmt", "yuv420p"],
    "high-pixels.mkv": ["-i", "CLIP", "-vf", "setsar=8/9", "-pix_fmt", "yuv420p"],
    "wide-pixels.webm": ["-i", "CLIP", "-vf", "setsar=12/11", "-c:v", "libvpx-vp9"],
    "b-frames.avi": ["-i", "CLIP", "-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p"],
    "b-frames-xvid.avi": ["-i", "CLIP", "-c:v", "mpeg4", "-vtag", "xvid", "-bf", "2"],
    "motion-jpeg.avi": ["-i", "CLIP", "-c:v", "mjpeg"],
    "decoding-order.mp4": ["-f", "h264", "-i", "RAW", "-c", "copy"],
    "growing-frames.mp4": ["-f", "h264", "-i", "RAW-OF-TWO-SIZES", "-c", "copy"],
    "open-gop.mkv": ["-i", "CLIP", "-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", X265],
    "variable-rate.mp4": ["-i", "CLIP", "-vf", "setpts='(N+N*N/9)/8/TB'", "-fps_mode", "vfr", "-crf", "10"],
    "dropped-frames.mkv": ["-i", "CLIP", "-vf", "select='mod(n,5)-2'", "-fps_mode", "vfr", "-crf", "10"],
    "odd.webm": ["-i", "CLIP", "-vf", "crop=63:47:0:0", "-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0"],
    "odd.mp4": ["-i", "CLIP", "-vf", "crop=63:47:0:0", "-pix_fmt", "yuv444p", "-crf", "10"],
    "ten-bit.mp4": ["-i", "CLIP", "-pix_fmt", "yuv420p10le", "-crf", "10"],
    "sixteen-bit.mkv": ["-i", "CLIP", "-c:v", "ffv1", "-pix_fmt", "gray16le"],
    "hevc.mp4": ["-i", "CLIP", "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=0:crf=10"],
    "av1.mp4": ["-i", "CLIP", "-c:v", "libsvtav1", "-crf", "10", "-svtav1-params", "lookahead=0"],
    "with-sound.mp4": ["-f", "lavfi", "-i", "sine", "-i", "CLIP", "-c:v", "copy", "-c:a", "aac", "-shortest"],
}  # fmt: skip
SQUARE = "scale='if(gt(sar,1),round(iw*sar),iw)':'if(lt(sar,1),round(ih/sar),ih)'"  # of the pixels


@pytest.fixture(scope="module")
def raws(video: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """H.264 without times: the clip with B-frames, and after it frames of another size."""
    folder = tmp_path_factory.mktemp("raw")
    for name, options in (("a", ["-bf", "2"]), ("b", ["-vf", "scale=32:80"])):
        ffmpeg("-i", video, "-c:v", "libx264", *options, "-pix_fmt", "yuv420p", folder / f"{name}.h264")
    both = folder / "both.h264"
    both.write_bytes((folder / "a.h264").read_bytes() + (folder / "b.h264").read_bytes())
    return {"RAW": folder / "a.h264", "RAW-OF-TWO-SIZES": both}


def ffmpeg_frames(path: Path, *options: str, channels: int = 3, decoder: Sequence[str] = ()) -> np.ndarray:
    """Return the frames of a file as ffmpeg shows them, each of as many bytes as the file's first."""
    info, pixels = probe(path), {3: "rgb24", 4: "rgba"}[channels]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *decoder, "-i", str(path), "-fps_mode", "passthrough"]
    command += [*options, "-f", "rawvideo", "-pix_fmt", pixels, "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, info.height, info.width, channels)


@pytest.mark.parametrize("name", KINDS)
def test_any_video_gives_the_frames_that_ffmpeg_shows(
    video: Path, raws: dict[str, Path], name: str, tmp_path: Path
) -> None:
    path, files = tmp_path / name, raws | {"CLIP": video}
    ffmpeg(*(files.get(argument, argument) for argument in KINDS[name]), path)
    info = probe(path)
    expected = ffmpeg_frames(path, *(["-vf", SQUARE] if "pixels" in name else []))
    assert info.num_frames == len(expected) and info.fps > 0
    assert ("turned" in name and "180" not in name) == (info.height > info.width)
    np.testing.assert_array_equal(read_frames(path), expected)
    np.testing.assert_array_equal(read_frames(path, [7, 2, 8]), expected[[7, 2, 8]])
    np.testing.assert_array_equal(np.concatenate(list(stream_frames(path, at_most=5))), expected)


def test_frames_in_decoding_order_are_shown_in_order(raws: dict[str, Path], tmp_path: Path) -> None:
    ffmpeg("-f", "h264", "-i", raws["RAW"], "-c", "copy", tmp_path / "raw.mp4")
    assert (np.diff(read_frames(tmp_path / "raw.mp4")[:, -8:, -8:].mean((1, 2, 3))) > 0).all()


@pytest.mark.parametrize("sizes", ["405/404", "1000/1001"])
def test_pixels_that_are_nearly_square_change_nothing(video: Path, sizes: str, tmp_path: Path) -> None:
    ffmpeg("-i", video, "-c", "copy", "-bsf:v", f"h264_metadata=sample_aspect_ratio={sizes}", tmp_path / "near.mp4")
    np.testing.assert_array_equal(read_frames(tmp_path / "near.mp4"), read_frames(video))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-display_rotation", "45", "-i", "CLIP", "-c", "copy"], r"frames turned by 45 degrees, expected a multiple"),
        (["-i", "CLIP", "-vf", "setsar=30"], r"pixels 30 times as wide as high, expected at most 16"),
    ],
)
def test_videos_that_cannot_be_shown_are_refused_by_name(
    video: Path, options: list[str], reason: str, tmp_path: Path
) -> None:
    ffmpeg(*(video if argument == "CLIP" else argument for argument in options), tmp_path / "odd.mp4")
    with pytest.raises(VideoError, match=rf"odd\.mp4: {reason}"):
        read_frames(tmp_path / "odd.mp4")


# Name of a file -> ffmpeg's options to make it, and to decode it with its transparency.
TRANSPARENT = {
    "alpha-9.webm": (["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"], ["-c:v", "libvpx-vp9"]),
    "alpha-8.webm": (["-c:v", "libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0"], ["-c:v", "libvpx"]),
    "prores.mov": (["-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"], []),
    "animation.mov": (["-c:v", "qtrle"], []),
    "png.mov": (["-c:v", "png"], []),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_the_colours_under_transparency_are_hidden(name: str, tmp_path: Path) -> None:
    """On black for skeletons, on white for photographs; what shines through, in between."""
    path, (encoder, decoder) = tmp_path / name, TRANSPARENT[name]
    source = "color=magenta:size=64x48:rate=8,format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='clip(8*(X-16),0,255)'"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", "4", *encoder, path)
    expected = ffmpeg_frames(path, channels=4, decoder=decoder).astype(int)
    assert expected[..., 3].min() < 5 and expected[..., 3].max() > 250
    for ground in (0, 255):
        shown = (expected[..., :3] * expected[..., 3:] + ground * (255 - expected[..., 3:])) / 255
        assert np.abs(read_frames(path, ground=ground) - shown).max() < 1
    np.testing.assert_array_equal(np.concatenate(list(stream_frames(path))), read_frames(path, ground=0))


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


# ---- images as they are shown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(frames: np.ndarray, suffix: str, orientation: int, tmp_path: Path) -> None:
    exif, path = Image.Exif(), tmp_path / f"0.{suffix}"
    exif[0x0112] = orientation
    Image.fromarray(frames[3]).save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape[:2] == image_size(path, "image") == ((64, 48) if orientation >= 5 else (48, 64))
    for source in (path, tmp_path):
        np.testing.assert_array_equal(read_frames(source), expected[None])
    np.testing.assert_array_equal(read_image(path, "image"), expected[None])
    if suffix == "jpg":
        assert_close(expected[None], ffmpeg_frames(path))


def test_an_orientation_that_cannot_be_read_is_none(frames: np.ndarray, tmp_path: Path) -> None:
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""):
        Image.fromarray(frames[3]).save(tmp_path / "0.jpg", exif=exif, quality=95)
        assert_close(read_frames(tmp_path / "0.jpg"), frames[3:4])


def test_transparency_of_images_is_hidden(tmp_path: Path) -> None:
    """Of a channel, of a palette, and of the one grey or colour that a PNG names."""
    Image.new("RGBA", (4, 4), (255, 0, 255, 0)).save(tmp_path / "0.png")
    Image.new("LA", (4, 4), (200, 0)).save(tmp_path / "1.png")
    Image.new("P", (4, 4), 0).save(tmp_path / "2.png", transparency=0)
    Image.new("RGB", (4, 4), (9, 8, 7)).save(tmp_path / "3.png", transparency=(9, 8, 7))
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "4.png", transparency=4000)
    Image.new("RGBA", (4, 4), (255, 0, 255, 0)).save(tmp_path / "5.webp", lossless=True)
    assert len(read_frames(tmp_path)) == 6 and read_frames(tmp_path).max() == 0
    assert read_frames(tmp_path, ground=255).min() == 255
    for file in tmp_path.iterdir():
        assert read_image(file, file.name).min() == 255


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    ramp = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(ramp).save(tmp_path / "0.png")
    assert np.abs(read_frames(tmp_path / "0.png")[0, ..., 0] - ramp / 257).max() <= 0.5
    assert np.abs(read_frames(tmp_path / "0.png").astype(int) - ffmpeg_frames(tmp_path / "0.png")).max() <= 1
    shares = (ramp / 65535).astype(np.float32)
    Image.fromarray(shares).save(tmp_path / "1.tif")
    (tmp_path / "1.tif").rename(tmp_path / "1.png")
    np.testing.assert_array_equal(read_frames(tmp_path), read_frames(tmp_path / "0.png").repeat(2, 0))
    Image.fromarray(1000 * shares).save(tmp_path / "2.tif")
    (tmp_path / "2.tif").rename(tmp_path / "2.png")
    with pytest.raises(VideoError, match=r"2\.png: cannot be read as frames \(pixels from 0 to .*, expected"):
        read_frames(tmp_path / "2.png")


@pytest.mark.parametrize(("name", "format"), [("a.gif", "GIF"), ("a.png", "GIF"), ("a.webp", "WEBP"), ("a.png", "PNG")])
def test_an_animation_gives_all_of_its_frames(frames: np.ndarray, name: str, format: str, tmp_path: Path) -> None:
    first, *others = (Image.fromarray(frame) for frame in frames)
    path, options = tmp_path / name, {"lossless": True} if format == "WEBP" else {}
    first.save(path, format, save_all=True, append_images=others, duration=[100] * 6 + [150] * 6, loop=0, **options)
    info = probe(path)
    assert (info.num_frames, info.fps, info.height, info.width) == (FRAMES, 8.0, HEIGHT, WIDTH)
    assert_close(read_frames(path), frames)
    assert_close(read_frames(path, [7, 2, 7]), frames[[7, 2, 7]])
    assert_close(np.concatenate(list(stream_frames(path, at_most=5))), frames)
    assert np.abs(read_frames(path).astype(int) - ffmpeg_frames(path)).mean() < 1 or format == "WEBP"
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "0.png")
    with pytest.raises(VideoError, match=r"0\.png: cannot be read as a frame .*an animation of 12 frames"):
        read_frames(tmp_path / "folder")


def test_a_gif_is_opened_without_decoding_its_frames(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gif(tmp_path / "a.gif", frames, fps=10)
    loaded, load = [], GifImagePlugin.GifImageFile.load
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "load", lambda self: loaded.append(self) or load(self))
    assert probe(tmp_path / "a.gif").num_frames == FRAMES
    assert len(loaded) <= 3  # the first frame's, for its size


def test_frames_in_any_order_come_from_one_reader(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", frames, fps=10)
    opened = []
    monkeypatch.setattr(video_io, "reader_for", lambda path: opened.append(path) or reader_for(path))
    order = [3, 4, 5, 9, 2, 2, 0, 11]
    assert_close(np.concatenate(list(stream_frames(tmp_path / "a.mp4", order, at_most=3))), frames[order])
    assert len(opened) == 1


def test_the_picture_of_an_animated_png_for_other_viewers_is_no_frame(frames: np.ndarray, tmp_path: Path) -> None:
    for last in (2, 4):
        other, *shown = (Image.fromarray(frame) for frame in frames[:last])
        other.save(tmp_path / "0.png", save_all=True, append_images=shown, default_image=True, duration=100)
        np.testing.assert_array_equal(read_frames(tmp_path / "0.png"), frames[1:last])


def test_a_photograph_with_a_thumbnail_is_one_frame(frames: np.ndarray, tmp_path: Path) -> None:
    """As phones and panoramas have it: a .jpg of several pictures, the first of them the photograph."""
    photo, small = Image.fromarray(frames[3]), Image.fromarray(frames[3, ::2, ::2])
    photo.save(tmp_path / "0.jpg", "MPO", save_all=True, append_images=[small], quality=95)
    assert probe(tmp_path / "0.jpg").num_frames == 1
    assert_close(read_image(tmp_path / "0.jpg", "photo"), frames[3:4])


def test_a_folder_may_hold_hidden_files_and_odd_digits(tmp_path: Path, frames: np.ndarray) -> None:
    names = ["1.png", "2.png", "10.png", "10².png", "²³.png", "٣.png"]
    for name, frame in zip(names, frames, strict=False):
        Image.fromarray(frame).save(tmp_path / name)
    (tmp_path / "._1.png").write_bytes(b"what macOS leaves beside a file")
    (tmp_path / "folder.png").mkdir()
    np.testing.assert_array_equal(read_frames(tmp_path), frames[: len(names)])


def test_an_image_beyond_the_limit_of_pixels_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for name in ("0.png", "0.gif", "0.webp"):
        Image.new("L", (60, 60)).save(tmp_path / name)
        with pytest.raises(VideoError, match=rf"{name}: cannot be read as frames \(Image size \(3600 pixels\) exceeds"):
            probe(tmp_path / name)
        with pytest.raises(ValueError, match="name: not a readable image .*exceeds limit"):
            read_image(tmp_path / name, "name")
    with pytest.raises(VideoError, match=r"0\.\w+: cannot be read as a frame .*exceeds limit"):
        probe(tmp_path)


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_reads_what_its_parent_has_read(video: Path) -> None:
    """Threads of a decoder or a converter would be missing there, and waited for in vain."""
    stream, expected = stream_frames(video, at_most=5), read_frames(video)
    next(stream)  # a reader that is open
    if (process := os.fork()) == 0:
        os._exit(0 if np.array_equal(read_frames(video), expected) else 1)
    end = time.monotonic() + 60
    while (done := os.waitpid(process, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    assert done[1] == 0


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
