"""People of a run with words of their own, and its words and numbers along the video as a chart.

Shapes: f frames, H W pixels. Keypoints are (f, 17, 3): x, y in pixels and a confidence.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from followyourpose.config import ConfigError, GenerateConfig
from followyourpose.generation.loras import lora_scales, lora_settings
from followyourpose.generation.skeletons import SkeletonInput
from followyourpose.pipeline.schedule import numbers, values_of
from followyourpose.pose.regions import only_person
from followyourpose.pose.skeleton import NUM_JOINTS

Prompt = str | Mapping[int, str]
_ROW, _LINE, _LETTER = 44, 12, 6  # pixels of the chart: a row, a line of text, a letter on average
_COLOURS = ("#1f6feb", "#bf5b00", "#137333", "#8e3bb8")


def styled(prompt: Prompt, style: str) -> Prompt:
    """Return a prompt, or each of a prompt by frame, with the style behind it."""
    if isinstance(prompt, Mapping):
        return {frame: str(styled(text, style)) for frame, text in prompt.items()}
    return ", ".join(filter(None, (prompt, style.strip(" ,")))) if style.strip(" ,") else prompt


def title(prompt: Prompt) -> str:
    """Return a prompt as one line; texts by frame are joined by "then"."""
    return " then ".join(values_of(prompt))


def texts_of(config: GenerateConfig) -> list[str]:
    """Return every text of a run's prompts and people, without its style."""
    prompts = config.prompt if isinstance(config.prompt, list) else [config.prompt]
    return [text for prompt in (*prompts, *_people_prompts(config).values()) for text in values_of(prompt)]


def _people_prompts(config: GenerateConfig) -> dict[str, Prompt]:
    """Return the prompt of each person, by the name of its setting."""
    if isinstance(config.people, list):
        return {f"people[{number}]": entry["prompt"] for number, entry in enumerate(config.people)}
    return {f"people[{track}]": prompt for track, prompt in (config.people or {}).items()}


def announced(config: GenerateConfig, prompt: Prompt) -> str:
    """Return a video's prompt and its people's as one line."""
    return "; ".join(map(title, (prompt, *_people_prompts(config).values())))


def loras_of(config: GenerateConfig) -> dict[str, Any]:
    """Return the entries of a run's LoRAs, people's among them, by the names of their settings."""
    return {
        f"{name}[{i}]": entry
        for name, entries in lora_settings(config).items()
        for i, entry in enumerate(entries if isinstance(entries, list) else [entries])
        if entry is not None
    }


def people_of(config: GenerateConfig, source: SkeletonInput, size: tuple[int, int]) -> list[dict[str, Any]] | None:
    """Return the people of a skeleton with words of their own, as the pipeline's calls take them; None: there are none.

    Args:
        size: height and width of the video.

    Raises:
        ValueError: a file of one person shows several, or a track is not there.
    """
    if config.people is None:
        return None
    if isinstance(config.people, list):
        alone = [replace(each, others=()) for each in (source, *source.others)]
        frames = range(len(source.indices))
        return [
            {
                "prompt": styled(entry["prompt"], config.style),
                "skeleton": only_person(f"people[{i}]: {each.path}", each.people(*size, frames)),
            }
            | {key: entry[key] for key in ("depth",) if entry.get(key) is not None}
            | {"lora": lora_scales(config, i)}
            for i, (entry, each) in enumerate(zip(config.people, alone, strict=True))
        ]
    tracks = _tracks(source, size)
    for track in config.people:
        if track not in tracks:
            there = ", ".join(map(str, sorted(tracks))) or "none"
            raise ConfigError(f"people: {source.path}: got track {track}, expected one of {there} in the frames used")
    return [
        {"prompt": styled(prompt, config.style), "skeleton": tracks[track]} for track, prompt in config.people.items()
    ]


def _tracks(source: SkeletonInput, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Return the keypoints of each track, zero in the frames that do not show it."""
    if source.keypoints is None or source.keypoints.ids is None:
        raise ConfigError(
            f"people: {source.path}: its people have no track ids, expected keypoints.json of extract-pose, or a raw "
            "video with pose.source=raw"
        )
    frames = source.people(*size, range(len(source.indices)))
    tracks: dict[int, np.ndarray] = {}
    for number, (index, people) in enumerate(zip(source.indices, frames, strict=True)):
        for track, person in zip(source.keypoints.ids[index - source.first], people, strict=True):
            empty = np.zeros((len(frames), NUM_JOINTS, 3), np.float32)
            tracks.setdefault(track, empty)[number] = person
    return tracks


# ---- chart -----------------------------------------------------------------------------------------------------------


def chart(config: GenerateConfig, prompt: Prompt, width: int) -> np.ndarray | None:
    """Return a picture (H, width, 3) of what changes along a video, a row each; None: nothing does."""
    rows: dict[str, Any] = {"prompt": prompt, "guidance_scale": config.guidance_scale, "pose_scale": config.pose_scale}
    rows |= _people_prompts(config)
    loras = loras_of(config).items()
    rows |= {
        f"{name}.weight": entry["weight"] for name, entry in loras if isinstance(entry, dict) and "weight" in entry
    }
    changing = {name: value for name, value in rows.items() if isinstance(value, Mapping)}
    if not changing:
        return None
    picture = Image.new("RGB", (width, _ROW * len(changing)), "white")
    draw = ImageDraw.Draw(picture)
    for row, (name, value) in enumerate(changing.items()):
        draw.text((2, row * _ROW), name, fill="black")
        area = (0, row * _ROW + _LINE + 2, width - 1, (row + 1) * _ROW - 4)
        (_draw_texts if isinstance(value[0], str) else _draw_numbers)(draw, area, value, config)
    return np.asarray(picture)


def _draw_texts(draw: ImageDraw.ImageDraw, area: tuple[int, int, int, int], texts: Any, config: GenerateConfig) -> None:
    """Draw a bar for each text, from its frame to the next one's; its transition is lighter."""
    left, top, right, bottom = area
    starts = sorted(texts)
    for i, (start, end) in enumerate(zip(starts, [*starts[1:], config.num_frames], strict=True)):
        x, stop = (left + frame * (right - left) // config.num_frames for frame in (start, end))
        draw.rectangle((x, top, stop - 1, bottom), fill=_COLOURS[i % len(_COLOURS)])
        if start and config.transition:
            until = x + config.transition * (right - left) // config.num_frames
            draw.rectangle((x, top, min(until, stop - 1), bottom), fill="#777777")
        draw.text((x + 3, top + 5), texts[start][: max(0, (stop - x - 6) // _LETTER)], fill="white")


def _draw_numbers(
    draw: ImageDraw.ImageDraw, area: tuple[int, int, int, int], schedule: Any, config: GenerateConfig
) -> None:
    """Draw a line through the numbers of all frames, between the lowest and the highest."""
    left, top, right, bottom = area
    values = numbers(schedule, range(config.num_frames), config.transition)
    low, high = min(values), max(values)
    heights = [bottom - (value - low) / ((high - low) or 1) * (bottom - top) for value in values]
    points = [(left + (i + 0.5) * (right - left) / len(values), y) for i, y in enumerate(heights)]
    draw.line(points, fill=_COLOURS[0], width=2)
    for start, value in schedule.items():
        x, y = points[start]
        draw.text((x + 2, max(top - 2, min(y - 6, bottom - _LINE))), f"{value:g}", fill="black")
