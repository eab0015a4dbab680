"""ffmpeg: the time of each frame of a video and its difference from the one before; exact cuts.

Scene cuts come from ffmpeg's own detector, not from PySceneDetect: one pass of a program that is there anyway gives
times, cuts and motion, turns phone videos upright, and counts frames as the cutting pass does, at a variable rate too.

Shapes: n frames of the whole video. A span is [first, end) in frames.
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np

_COMPARED = 96  # pixels of the squares that are compared: small, against noise and for speed
_OUTPUTS = 32  # clips per pass through the video
_FRAME = re.compile(r"pts_time:(\S+)\s+lavfi\.scd\.mafd=(\S+)\s+lavfi\.scd\.score=(\S+)")


@dataclass(frozen=True)
class Look:
    """Measurements of a video's frames."""

    times: np.ndarray  # (n,) seconds since the video's start
    change: np.ndarray  # (n,) mean difference of luma from the frame before, in per cent of white
    jump: np.ndarray  # (n,) scene score, in per cent: high where a scene begins, low in fast motion

    def frames(self, start: float, end: float) -> tuple[int, int]:
        """Return the span of the frames shown from `start` on and before `end`, in seconds."""
        return int(np.searchsorted(self.times, start)), int(np.searchsorted(self.times, end))

    def longest_scene(self, first: int, end: int, threshold: float) -> tuple[int, int]:
        """Return the longest span within a span without a jump of `threshold` or more; the first of several."""
        cuts = first + 1 + np.flatnonzero(self.jump[first + 1 : end] >= threshold)
        ends = [first, *cuts.tolist(), end]
        return max(zip(ends[:-1], ends[1:], strict=True), key=lambda span: span[1] - span[0])

    def motion(self, first: int, end: int) -> float:
        """Return the mean change from frame to frame in a span, in per cent."""
        return float(self.change[first + 1 : end].mean()) if end - first > 1 else 0.0


def look(video: Path) -> Look:
    """Decode a video once.

    Raises:
        ValueError: it has no pictures or cannot be decoded; the message is ffmpeg's first line.
    """
    filters = f"scale={_COMPARED}:{_COMPARED}:flags=area,format=gray,scdet,metadata=print:file=-"
    printed = _ffmpeg("-i", video, "-map", "0:V:0", "-fps_mode", "passthrough", "-vf", filters, "-f", "null", "-")
    frames = np.array(_FRAME.findall(printed), float).reshape(-1, 3)
    if not len(frames):
        raise ValueError("no frame can be decoded")
    return Look(*frames.T)


def cut(video: Path, spans: Sequence[tuple[int, int]], targets: Sequence[Path], short_side: int) -> None:
    """Write spans of a video's frames to mp4 files (H.264, yuv420p), upright, without sound, each frame at its time.

    Frames are counted as `look` counts them. A larger video is shrunk until its smaller side has `short_side` pixels;
    odd sizes lose their last row or column.

    Raises:
        ValueError: a file cannot be written; the message is ffmpeg's first line.
    """
    for start in range(0, len(spans), _OUTPUTS):
        some = spans[start : start + _OUTPUTS]
        names = [f"clip{index}" for index in range(len(some))]
        graph = [f"[0:V:0]split={len(some)}{''.join(f'[{name}in]' for name in names)}"]
        outputs: list[str | Path] = []
        for name, (first, end), target in zip(names, some, targets[start:], strict=False):
            graph.append(
                f"[{name}in]trim=start_frame={first}:end_frame={end},setpts=PTS-STARTPTS,"
                "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0,"
                f"scale='trunc(iw*{_shrink(short_side)}/2)*2:trunc(ih*{_shrink(short_side)}/2)*2'[{name}]"
            )
            outputs += [
                "-map", f"[{name}]", "-fps_mode", "passthrough", "-enc_time_base", "filter", "-c:v", "libx264",
                "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p", "-threads", "1", "-map_metadata", "-1",
                "-movflags", "+faststart", target,
            ]  # fmt: skip
        _ffmpeg("-i", video, "-filter_complex", ";".join(graph), *outputs)


def _shrink(short_side: int) -> str:
    return f"min(1,{short_side}/min(iw,ih))"


def _ffmpeg(*arguments: str | Path) -> str:
    """Return the stdout of ffmpeg, in one thread: workers share the cores, and x264's bytes depend on the number."""
    threads = [word for kind in ("threads", "filter_threads", "filter_complex_threads") for word in (f"-{kind}", "1")]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *threads, *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        message = done.stderr.strip() or "ffmpeg failed without a message"
        raise ValueError(message.splitlines()[0])  # the cause; the lines behind it are consequences
    return done.stdout
