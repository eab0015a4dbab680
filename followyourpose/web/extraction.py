"""Events of the page's second tab: a video -> the skeletons of its people, or of some of them.

Gradio names the parameters of the HTTP API after those of `extract`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import counted
from followyourpose.config import ConfigError
from followyourpose.data.video_io import read_frames
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints
from followyourpose.web import markup
from followyourpose.web.clients import Clients, Event
from followyourpose.web.jobs import Cancelled, Report


def extract(clients: Clients) -> Event:
    """Event of the API: the files of extract-pose, the status, the confidence, and the people to choose from."""
    import gradio as gr

    def event(upload: str | None, request: gr.Request = None) -> Iterator[list[Any]]:
        with clients.errors(request):
            if upload is None:
                raise ConfigError("got no file, expected a video of people")
            clients.check_files(request, upload)
            try:
                for report in clients.studio.extract(request.session_hash, Path(upload)):
                    if isinstance(report, Report):
                        yield [*[gr.skip()] * 4, markup.progress(report, "Frame"), *[gr.skip()] * 3]
                    else:
                        clients.count(request, report)
                        yield _extracted(clients, Path(upload), report)
            except Cancelled:
                yield [*[gr.skip()] * 4, markup.plain("Cancelled."), *[gr.skip()] * 3]

    return event


def _extracted(clients: Clients, video: Path, folder: Path) -> list[Any]:
    import gradio as gr

    clip = read_keypoints(folder / "keypoints.json")
    counts = Counter(number for ids in clip.ids or [] for number in ids)
    choices = [(f"{number}: in {counted(count, 'frame')}", number) for number, count in sorted(counts.items())]
    several = len(counts) > 1
    skeleton, overlay, keypoints = (str(folder / name) for name in ("skeleton.mp4", "overlay.mp4", "keypoints.json"))
    found = f"{len(counts)} {'person' if len(counts) == 1 else 'people'} found in {counted(len(clip.frames), 'frame')}."
    nobody = f"{clients.studio.config.pose.backend} found nobody, so the skeleton is black."
    return [
        overlay, skeleton, overlay, keypoints, markup.plain(found if counts else nobody),
        markup.confidence(_confidence(clip)), markup.who(*_fullest(video, clip)) if several else "",
        gr.update(choices=choices, value=sorted(counts), visible=several),
    ]  # fmt: skip


def _fullest(video: Path, clip: ClipKeypoints) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """Return the frame with the most people, (H, W, 3) uint8, its people, (17, 3) each, and their track ids."""
    index = max(range(len(clip.frames)), key=lambda i: len(clip.frames[i]))
    return read_frames(video, [index])[0], clip.frames[index], (clip.ids or [])[index]


def _confidence(clip: ClipKeypoints) -> np.ndarray:
    """Return the mean confidence of the joints of a frame's people, (f,), 0 where nobody is."""
    return np.array([np.mean([person[:, 2].mean() for person in people]) if people else 0.0 for people in clip.frames])


def choose_people(clients: Clients) -> Event:
    """Event: the files of extract-pose of some of the people, and their confidence."""
    import gradio as gr

    def event(upload: str, everybody: str, people: list[int], request: gr.Request = None) -> Iterator[list[Any]]:
        with clients.errors(request), clients.studio.chosen(Path(upload), Path(everybody), people) as folder:
            clients.count(request, folder)
            names = ("overlay.mp4", "skeleton.mp4", "overlay.mp4", "keypoints.json")
            clip = read_keypoints(folder / "keypoints.json")
            yield [*(str(folder / name) for name in names), markup.confidence(_confidence(clip))]

    return event
