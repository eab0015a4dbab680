"""Nodes of ComfyUI for people with words of their own, and for numbers along the video, in its V3 schema.

A person travels as a prompt and a skeleton: a clip of this person alone or, on a video's frames, keypoints (f, 17, 3).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from followyourpose.comfyui.nodes_pose import KEYPOINTS, clip_of
from followyourpose.comfyui.schema import node, widget
from followyourpose.config import GenerateConfig
from followyourpose.generation.skeletons import SkeletonInput, frames_used
from followyourpose.pipeline.schedule import along
from followyourpose.pose.regions import only_person
from followyourpose.pose.track import link, per_frame

PEOPLE, ALONG = io.Custom("FOLLOWYOURPOSE_PEOPLE"), io.Custom("FOLLOWYOURPOSE_ALONG")
PLACED = io.Custom("FOLLOWYOURPOSE_PLACED")  # people on the frames of a skeleton


class AddPerson(io.ComfyNode):
    """One more person with words of their own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        lines = "A sentence, or a line for each frame from which one holds: 0: a robot, 8: a panda."
        return node(
            "Person",
            "Person for Follow Your Pose",
            "Gives one of the people of keypoints a sentence of their own; several are chained.",
            [
                KEYPOINTS.Input("keypoints"),
                io.Int.Input("person", default=0, min=0, max=100_000, tooltip="The number beside the head."),
                io.String.Input("prompt", multiline=True, default="a robot on the moon", tooltip=lines),
                PEOPLE.Input("people", optional=True),
            ],
            [PEOPLE.Output(display_name="people")],
        )

    @classmethod
    def execute(cls, keypoints: Any, person: int, prompt: str, people: Any = None) -> io.NodeOutput:
        clip = clip_of("keypoints", keypoints)
        frames, ids = (clip.frames, clip.ids) if clip.ids else per_frame(link(clip.frames), len(clip.frames))
        if not any(person in each for each in ids):
            there = ", ".join(map(str, sorted({number for each in ids for number in each}))) or "nobody"
            raise ValueError(f"person: got {person}, expected one of the keypoints' people: {there}")
        alone = [[p for p, i in zip(*each, strict=True) if i == person] for each in zip(frames, ids, strict=True)]
        entry = {"prompt": along("prompt", prompt), "skeleton": replace(clip, frames=alone, ids=None)}
        return io.NodeOutput([*(people or []), entry])


class Along(io.ComfyNode):
    """Numbers that change along a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        lines = "A line for each frame from which a number holds, such as 0: 2 and 8: 6; empty: Generate's own."
        return node(
            "Along",
            "Along the Video for Follow Your Pose",
            "Numbers by frame, and the transition between them and between prompts by frame.",
            [
                io.String.Input("guidance_scale", multiline=True, default="", tooltip=lines),
                io.String.Input("pose_scale", multiline=True, default="", tooltip=lines),
                widget(GenerateConfig, "transition"),
            ],
            [ALONG.Output(display_name="along")],
        )

    @classmethod
    def execute(cls, transition: int, **numbers: str) -> io.NodeOutput:
        given = {name: along(name, text) for name, text in numbers.items() if text.strip()}
        return io.NodeOutput(given | {"transition": transition})


def placed(
    people: Sequence[dict[str, Any]], size: tuple[int, int], config: GenerateConfig
) -> tuple[SkeletonInput, list[dict[str, Any]]]:
    """Return people on the frames of a video of this height and width: drawn together, and each by keypoints."""
    drawn, each = [], []
    for number, person in enumerate(people):
        clip, name = person["skeleton"], f"people[{number}]"
        indices = frames_used(config, len(clip.frames))
        source = SkeletonInput(Path(name), indices, (clip.height, clip.width), config, clip)
        keypoints = only_person(name, source.people(*size, range(config.num_frames)))
        drawn.append(source)
        each.append({"prompt": person["prompt"], "skeleton": keypoints})
    return replace(drawn[0], others=tuple(drawn[1:])), each
