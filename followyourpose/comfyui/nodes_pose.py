"""Nodes of ComfyUI on keypoints, in its V3 schema: from a video, from a file, and for another body.

Images are tensors (f, H, W, 3) in [0, 1]: f frames, H W pixels. Keypoints are POSE_KEYPOINT, the type of ComfyUI's own
pose nodes and of ControlNet's: per frame OpenPose's people and the size of the picture.
"""

from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy import model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io

from followyourpose.comfyui.schema import node, widget
from followyourpose.common.checks import parse_size
from followyourpose.common.pictures import to_uint8
from followyourpose.config import PoseConfig, RetargetConfig, build_config, locate
from followyourpose.generation.extract_pose import FPS, check_pose, find_people, summary
from followyourpose.generation.pose_files import open_clip
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.pipeline.inputs import check_finite_tensor
from followyourpose.pose.formats.openpose import openpose_frames, read_openpose
from followyourpose.pose.formats.read import Reading
from followyourpose.pose.keypoints_file import ClipKeypoints
from followyourpose.pose.render import numbered, overlay, render_skeleton
from followyourpose.pose.retarget import retarget

KEYPOINTS = io.Custom("POSE_KEYPOINT")
_CHUNK = 16  # frames in which people are found at a time


class VideoKeypoints(io.ComfyNode):
    """People in a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node(
            "VideoKeypoints",
            "Keypoints from Video",
            "Finds people in the frames of a video and follows them; the overlay shows the people found.",
            [
                io.Image.Input("images"),
                widget(PoseConfig, "backend"),
                widget(PoseConfig, "people", high=99),
                widget(PoseConfig, "smooth", high=99),
            ],
            [KEYPOINTS.Output(display_name="keypoints"), io.Image.Output(display_name="overlay")],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, backend: str, people: int, smooth: int) -> io.NodeOutput:
        config = build_config(
            PoseConfig, {"backend": backend, "people": people or None, "smooth": smooth}, name="settings"
        )
        check_pose(config)
        frames, bar = to_bytes("images", images), ProgressBar(len(images))

        def progress(count: int) -> None:
            model_management.throw_exception_if_processing_interrupted()
            bar.update(count)

        height, width = frames.shape[1:3]
        chunks = (frames[start : start + _CHUNK] for start in range(0, len(frames), _CHUNK))
        clip = find_people(chunks, config, (height, width), FPS, progress)
        if not any(clip.frames):
            raise ValueError(f"images: {summary(clip, config)}".replace("--backend", "backend"))
        sure, found = config.min_confidence, []
        for frame, each, ids in zip(frames, clip.frames, clip.ids, strict=True):
            found.append(numbered(overlay(frame, render_skeleton(each, height, width, sure)), each, ids, sure))
        return io.NodeOutput(openpose_frames(clip), to_images(np.stack(found)))


class LoadKeypoints(io.ComfyNode):
    """Keypoints of any tool."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        place = "A .json, or a folder of them, in the input folder or by its path; empty, or two.json: a sample."
        return node(
            "LoadKeypoints",
            "Load Keypoints",
            "Reads keypoints of extract-pose, OpenPose, DWPose, COCO, MMPose or MediaPipe.",
            [
                io.String.Input("file", default="", tooltip=place),
                io.String.Input("size", default="", tooltip="WIDTHxHEIGHT in pixels, where the file has none."),
            ],
            [KEYPOINTS.Output(display_name="keypoints")],
        )

    @classmethod
    def execute(cls, file: str, size: str) -> io.NodeOutput:
        given = parse_size("size", size) if size.strip() else None
        return io.NodeOutput(openpose_frames(open_clip(_keypoints_file(file), given)))

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> float:
        path = _keypoints_file(file)
        return path.stat().st_mtime if path.exists() else 0.0


class Retarget(io.ComfyNode):
    """Another body for people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node(
            "Retarget",
            "Retarget Keypoints",
            "Gives people the proportions and the place of a reference's largest person, or another size.",
            [
                KEYPOINTS.Input("keypoints"),
                widget(RetargetConfig, "scale", 0.05, 20, step=0.05),
                KEYPOINTS.Input("reference", optional=True),
            ],
            [KEYPOINTS.Output(display_name="keypoints")],
        )

    @classmethod
    def execute(cls, keypoints: Any, scale: float, reference: Any = None) -> io.NodeOutput:
        body = None if reference is None else clip_of("reference", reference)
        return io.NodeOutput(openpose_frames(retarget(clip_of("keypoints", keypoints), body, scale)))


def clip_of(name: str, keypoints: Any) -> ClipKeypoints:
    """Return keypoints of ComfyUI as a clip; the rate, which they lack, is 8 frames per second.

    Raises:
        ValueError: they are no keypoints, or of no frame; the message names the input.
    """
    if not isinstance(keypoints, list) or not keypoints:
        raise ValueError(f"{name}: got {keypoints!r:.60}, expected keypoints of at least one frame")
    return Reading(Path(name), read_openpose(keypoints, name)).clip()


def to_bytes(name: str, images: Any) -> np.ndarray:
    """Return images (f, H, W, 3 or 4) in [0, 1] as bytes (f, H, W, 3).

    Raises:
        ValueError: they are none, or not finite; the message names the input.
    """
    shape = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[0] < 1 or shape[3] not in (3, 4):
        raise ValueError(f"{name}: got {shape}, expected images (frames, height, width, 3)")
    check_finite_tensor(name, images)
    return to_uint8(images[..., :3].clamp(0, 1).float().cpu().numpy())


def to_images(frames: np.ndarray) -> torch.Tensor:
    """Return bytes (f, H, W, 3) as images in [0, 1]."""
    return torch.from_numpy(frames).float() / 255


def _keypoints_file(name: str) -> Path:
    """Return a file or folder of ComfyUI's input folder, a sample, or a file or folder by its path."""
    if not (name := name.strip()):
        return SAMPLE.with_suffix(".json")
    places = Path(folder_paths.get_input_directory()) / name, SAMPLE.parent / name
    return next((place for place in places if place.exists()), locate(name))
