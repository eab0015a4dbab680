"""Parts of the page as HTML: what the model reads and gets, progress, problems, and the confidence of found people.

Pictures are (H, W, 3) uint8 RGB and travel inside the HTML.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

import numpy as np
from PIL import Image

from followyourpose.common.checks import counted
from followyourpose.config import GenerateConfig
from followyourpose.pipeline.words import ReadPrompt
from followyourpose.pose.render import numbered, overlay, render_skeleton
from followyourpose.web.jobs import Report
from followyourpose.web.preview import Box, Crowd

TOLD = 0.02  # least share cut off that is worth a line
BARS = 200  # of the strip of confidence, at most
PICTURE = 480  # pixels of the longer side of a picture of people


def plain(text: str) -> str:
    """Return a line of text."""
    return f'<p role="status">{escape(text)}</p>'


def problem(message: str) -> str:
    """Return a line that says what is wrong; a screen reader reads it out at once."""
    return f'<p class="problem" role="alert">{escape(message)}</p>'


def empty(text: str) -> str:
    """Return the empty place of a video, with what will be there."""
    return f'<div class="empty-place"><p>{escape(text)}</p></div>'


def read(reading: ReadPrompt, missing: Mapping[str, str]) -> str:
    """Return the number of tokens of a prompt and, underlined, the words that mean nothing to the model.

    Args:
        missing: those of the words that a LoRA teaches -> the LoRA.
    """
    count = f'<span class="count">{reading.tokens} of {reading.room} tokens</span>'
    words = ", ".join(f"<u>{escape(word)}</u>" for word in reading.unknown if word not in missing)
    parts = [f"New to this model, so it draws something else: {words}."] if words else []
    parts += [f"<u>{escape(word)}</u> needs the LoRA {escape(name)}, under Look." for word, name in missing.items()]
    parts += [f"Too long; not read: <u>{escape(reading.ignored)}</u>."] if reading.ignored else []
    return f'<p class="read">{count} {" ".join(parts)}</p>'


def frames(picture: np.ndarray, numbers: Sequence[int], cut: float) -> str:
    """Return the picture (H, W, 3) of the driving frames, their numbers, and the share of the skeleton they cut off."""
    text = f"{counted(len(numbers), 'frame')} of the driving video: {', '.join(map(str, numbers))}"
    shape = f"{cut:.0%} of the skeleton is cut off; black around it, under Frames, keeps all. " if cut >= TOLD else ""
    return f'<figure class="frames">{_image(picture, text)}<figcaption>{shape}{text}</figcaption></figure>'


def crowds(shown: Sequence[Crowd]) -> str:
    """Return frames of several people, each a button: the smaller in front of the larger."""
    if not shown:
        return ""
    figures = []
    for number, picture, boxes in shown:
        behind = sorted(boxes, key=lambda track: _area(boxes[track]), reverse=True)
        buttons = "".join(
            f'<button type="button" data-person="{track}" aria-label="Write the sentence of person {track}"'
            f' title="Person {track}" style="left:{left:.1%};top:{top:.1%};width:{right - left:.1%};'
            f'height:{bottom - top:.1%};z-index:{behind.index(track)}"></button>'
            for track, (left, top, right, bottom) in sorted(boxes.items())
        )
        text = f"Frame {number}, with the numbers of its people"
        figures.append(f'<div class="crowd">{_image(picture, text)}{buttons}</div>')
    return (
        f"<figure>{''.join(figures)}<figcaption>Click a person to write that person’s sentence.</figcaption></figure>"
    )


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def progress(report: Report, unit: str) -> str:
    """Return the progress of a job, large, with its latest picture."""
    left = "" if report.seconds_left is None else f", about {duration(report.seconds_left)} left"
    text = f"{unit} {report.done} of {report.total}{left}" if report.done else "Preparing"
    bar = f'<progress aria-label="Progress" max="{report.total}" value="{report.done}"></progress>'
    picture = "" if report.picture is None else _image(report.picture, "The frames as far as they are drawn")
    return f'<div class="empty-place" aria-live="polite"><p>{text}</p>{bar}{picture}</div>'


def cost(config: GenerateConfig, seconds: float | None) -> str:
    """Return the size of a job and the time that it will take."""
    time = "time known after the first video" if seconds is None else f"about {duration(seconds)}"
    raw = " and the search for people" if config.pose.source == "raw" else ""
    steps = counted(config.num_inference_steps, "step")
    return f'<p class="cost">{counted(config.num_frames, "frame")}, {steps}: {time}{raw}</p>'


def driving_title(config: GenerateConfig) -> str:
    """Return the values of the driving frames, as the title of their fold."""
    every = "" if config.stride == 1 else f", every {config.stride}."
    end = "" if config.skeleton_end == "stop" else f", then {config.skeleton_end}"
    crop = ", cropped" if any(vars(config.crop).values()) else ""
    return f"Frames: {config.num_frames} from {config.temporal_offset}{every}{end}{crop}"


def sampling_title(config: GenerateConfig, random_seed: bool, lora: str) -> str:
    """Return the values of sampling, as the title of their fold."""
    seed = "another seed each time" if random_seed else f"seed {config.seed}"
    steps = counted(config.num_inference_steps, "step")
    style = f", {lora}" if config.lora else ""
    return f"Look: {seed}, {steps} of {config.scheduler}, guidance {config.guidance_scale:g}{style}"


def cards(made: Sequence[tuple[str, str]]) -> str:
    """Return the results of a visit, the latest first: their names and gifs, each to look at and to use again."""
    if not made:
        return "<p>Your videos are kept here, to look at, to compare, and to use their settings again.</p>"
    items = [
        f'<li><button data-event="look" data-index="{index}" aria-label="Show {escape(name)}">'
        f'<img src="gradio_api/file={escape(quote(gif))}" alt=""></button><p>{escape(name)}</p>'
        f'<button data-event="again" data-index="{index}" aria-label="Use {escape(name)} again">Use again</button></li>'
        for index, (name, gif) in enumerate(made)
    ]
    return f'<ul class="cards">{"".join(items[::-1])}</ul>'


def confidence(values: np.ndarray) -> str:
    """Return a strip of bars: the mean confidence (f,) in [0, 1] of the people in each frame, 0 where nobody is."""
    nobody = int((values == 0).sum())
    text = f"Confidence of {counted(len(values), 'frame')}: {values.mean():.2f} on average"
    text += f", lowest {values.min():.2f} in frame {values.argmin()}" if not nobody else ""
    text += f"; nobody in {nobody} of them" if nobody else ""
    bars = [part.min() for part in np.array_split(values, min(len(values), BARS))]
    shapes = "".join(
        f'<rect x="{i}" y="{1 - bar:.3f}" width="1" height="{bar:.3f}"/>'
        if bar
        else f'<rect class="none" x="{i}" width="1" height="1"/>'
        for i, bar in enumerate(bars)
    )
    strip = f'<svg viewBox="0 0 {len(bars)} 1" preserveAspectRatio="none" role="img" aria-label="{text}">{shapes}</svg>'
    return f'<figure class="confidence">{strip}<figcaption>{text}</figcaption></figure>'


def who(frame: np.ndarray, people: Sequence[np.ndarray], numbers: Sequence[int]) -> str:
    """Return a frame (H, W, 3) with its people, (17, 3) each, and their numbers."""
    drawn = overlay(frame, render_skeleton(people, *frame.shape[:2]))
    picture = Image.fromarray(numbered(drawn, people, numbers))
    picture.thumbnail((PICTURE, PICTURE))
    return f"<figure>{_image(np.asarray(picture), 'The people, with their numbers')}</figure>"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _image(picture: np.ndarray, text: str) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}" alt="{escape(text)}">'
