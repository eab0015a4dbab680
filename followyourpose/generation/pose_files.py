"""`followyourpose pose`: keypoints between the formats of tools, from and to drawn skeletons; edits of single joints.

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from followyourpose.common.checks import check_choice, counted
from followyourpose.common.files import read_text
from followyourpose.common.pictures import evenly
from followyourpose.data.video_io import probe, read_frames, stream_frames, video_writer
from followyourpose.pose.edit import edit
from followyourpose.pose.formats import FORMATS, format_of, is_keypoints, read_any, write_any
from followyourpose.pose.formats.read import FPS
from followyourpose.pose.from_drawing import has_swapped_colors, people_of_drawing
from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.recognise import COLOURS, LOOKED_AT, drawing_of
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.track import link, per_frame

VIDEO = "video"  # a drawn skeleton, .mp4


def convert_pose(
    source: Path,
    target: Path,
    to: str | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    images: str | None = None,
) -> None:
    """Convert keypoints to a file or folder of another format; print what is lost.

    Args:
        source: keypoints of any tool (see `formats.read_any`), or a video of skeletons drawn in MMPose's colours.
        to: "keypoints", "openpose", "coco" or "video"; None: as the target's name asks for.
        size, fps, images: see `formats.Reading.clip` and `formats.read_any`.

    Raises:
        ValueError: the source cannot be read, or the target cannot be written or is there already.
    """
    kind = _kind(target, to)
    _write(target, open_clip(source, size, fps, images), kind)


def edit_pose(
    source: Path,
    target: Path,
    moves: Sequence[str],
    to: str | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
) -> None:
    """Move joints (see `pose.edit`) and write the result as `convert_pose` does.

    Args:
        moves: each a move, or the path of a text file with a move a line.

    Raises:
        ValueError: as `convert_pose`; or a move is none, or names what is not there.
    """
    kind = _kind(target, to)
    lines = [line for text in moves for line in _lines(text)]
    clip, count = edit(open_clip(source, size, fps), lines)
    print(f"{counted(len(lines), 'move')} of {counted(count, 'joint')}")
    _write(target, clip, kind)


def open_clip(
    source: Path, size: tuple[int, int] | None = None, fps: float | None = None, images: str | None = None
) -> ClipKeypoints:
    """Return the clip of keypoints or drawn skeletons, with the errors of `convert_pose`; print a line about it."""
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder, expected keypoints, or a video of drawn skeletons")
    if not is_keypoints(source):
        return _drawn_clip(source, size, fps)
    reading = read_any(source, images)
    print(reading.summary)
    return reading.clip(size, fps)


def _drawn_clip(source: Path, size: tuple[int, int] | None, fps: float | None) -> ClipKeypoints:
    """Return the people drawn in each frame of a video; print a line about them."""
    try:
        info = probe(source)
    except ValueError as error:
        reason = str(error).removeprefix(f"{source}: ")
        raise ValueError(f"{source}: not keypoints (.json or a folder of them), nor drawn: {reason}") from error
    if size not in (None, (info.width, info.height)):
        raise ValueError(f"{source}: size: got {size[0]}x{size[1]}, but its own is {info.width}x{info.height}")
    sample = read_frames(source, evenly(info.num_frames, LOOKED_AT))
    if (drawing := drawing_of(sample)) != "coco":
        got = {"empty": "black frames", "raw": "a raw video, for extract-pose"}.get(drawing)
        got = got or f"a drawing in {COLOURS[drawing]}"
        raise ValueError(f"{source}: got {got}, expected keypoints, or limbs in MMPose's colours on black")
    swapped, found = has_swapped_colors(sample), []
    with tqdm(total=info.num_frames, desc="reading skeletons", unit="frame") as bar:
        for chunk in stream_frames(source):
            found += [people_of_drawing(frame, swapped) for frame in chunk]
            bar.update(len(chunk))
    if not any(found):
        raise ValueError(
            f"{source}: no skeleton can be read; people have to be drawn whole, and apart from one another"
        )
    people, ids = per_frame(link(found), len(found))
    colors = "MMPose's colours" + ", red and blue swapped" * swapped
    empty = sum(not each for each in people)
    print(
        f"{source}: drawn in {colors}, {counted(len(people), 'frame')}, {counted(sum(map(len, people)), 'pose')}"
        + f"; nobody in {empty:,} of the frames" * (empty > 0)
    )
    return ClipKeypoints(info.width, info.height, fps or info.fps or FPS, people, ids)


def _lines(text: str) -> list[str]:
    """Return the moves of an argument: itself, or the lines of the file that it names, without # comments."""
    if not text.strip():
        raise ValueError('got an empty move, expected one such as "hide left_wrist 10"')
    if not Path(text).is_file():
        return [text]
    lines = (line.partition("#")[0].strip() for line in read_text(Path(text)).splitlines())
    return [line for line in lines if line]


def _kind(target: Path, to: str | None) -> str:
    if to is not None:
        check_choice("--to", to, (*FORMATS, VIDEO))
    elif target.suffix.lower() == ".mp4":
        to = VIDEO
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is there already, and nothing is overwritten")
    return to or format_of(target)


def _write(target: Path, clip: ClipKeypoints, kind: str) -> None:
    if kind != VIDEO:
        if lost := write_any(target, clip, kind):
            print(f"{target}: {kind} does not hold {lost}")
        return
    with video_writer(target, clip.height, clip.width, clip.fps) as write:
        for people in clip.frames:
            write(render_skeleton(people, clip.height, clip.width)[None])
