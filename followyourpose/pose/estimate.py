"""Pose estimation: frames -> people with their keypoints, one interface for four backends.

Letters: n frames, p people, H W pixels. A person is (17, 3): COCO-17, x, y in pixels of the frame, confidence.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from followyourpose.common.checks import check_choice, check_installed
from followyourpose.common.device import torch_device
from followyourpose.common.pictures import check_frames
from followyourpose.hub.places import locate
from followyourpose.hub.registry import DOWNLOADS
from followyourpose.hub.resolve import fetched, resolve
from followyourpose.pose.estimate_rtmlib import Boxes
from followyourpose.pose.skeleton import NUM_JOINTS, SEEN

# Backend -> its default weights: a name of `followyourpose download`, or a folder of the repository.
WEIGHTS = {"light": "light", "puppet": "checkpoints/puppet-eval/detector", "rtmlib": "rtmo", "mmpose": "hrnet"}
_FEWEST = 3  # seen joints of a person


class PoseEstimator:
    """People in frames; made by `open_estimator`.

    Top-down networks find a person in every box, empty or not, so a person with hardly a joint seen is left out,
    whatever the backend.

    Args:
        find: frames (n, H, W, 3) uint8 RGB -> per frame the poses (p, 17, 3) that a backend found.
    """

    def __init__(self, find: Callable[[np.ndarray], Sequence[np.ndarray]]) -> None:
        self._find = find

    def __call__(self, frames: np.ndarray) -> list[list[np.ndarray]]:
        """Frames (n, H, W, 3) uint8 RGB -> per frame one (17, 3) float32 per person: x, y, confidence in [0, 1].

        Raises:
            ValueError: the frames are not (n, H, W, 3) uint8.
        """
        check_frames(frames)
        found = [np.asarray(poses, np.float32).reshape(-1, NUM_JOINTS, 3).copy() for poses in self._find(frames)]
        for poses in found:
            poses[..., 2] = poses[..., 2].clip(0, 1)  # the peak of a heatmap may be a little outside
        return [[pose for pose in poses if (pose[:, 2] >= SEEN).sum() >= _FEWEST] for poses in found]


class Networks(NamedTuple):
    """Files of a backend, as `open_estimator` takes them."""

    weights: Path
    config: Path | None
    boxes: Path | Boxes | None


def check_estimator(
    backend: str,
    weights: str | Path | None = None,
    config: str | Path | None = None,
    boxes: str | Path | Boxes | None = None,
) -> Networks:
    """Check the arguments of `open_estimator` without importing or loading a network, and return their files.

    Weights and boxes that are names of `followyourpose download`, as the defaults are, are downloaded where they are
    missing, after all else was checked.

    Raises:
        ValueError: the backend is unknown or not installed, or a file is missing, of no use to it or not to be had.
    """
    check_choice("backend", backend, tuple(WEIGHTS))
    weights = _found("weights", WEIGHTS[backend] if weights is None else weights)
    boxes = boxes if boxes is None or callable(boxes) else _found("boxes", boxes)
    if backend == "puppet" and not (Path(weights) / "config.json").is_file():
        raise ValueError(f"weights: {weights}: has no config.json, expected a puppet detector's folder")
    if config is not None and backend != "mmpose":
        raise ValueError(f"config: got {config}, expected none: only the backend mmpose has configs")
    if boxes is not None and backend == "puppet":
        raise ValueError(f"boxes: got {boxes}, expected none: the puppet detector takes whole frames")
    if backend == "light":
        check_installed("backend light", "pose", "ai_edge_litert")
    if backend == "mmpose":
        from followyourpose.pose.estimate_mmpose import check_mmpose

        check_mmpose()
    if backend == "rtmlib" or boxes is not None and not callable(boxes):
        check_installed(f"backend {backend}", "pose", "rtmlib", "onnxruntime")
    return Networks(
        fetched(weights),
        config if config is None else locate(config),
        boxes if boxes is None or callable(boxes) else fetched(boxes),
    )


def _found(key: str, name: str | Path) -> str | Path:
    """Return the file or folder of a path or a hub id; a name of `followyourpose download` stays as it is."""
    return name if str(name) in DOWNLOADS else resolve(name, key)


def open_estimator(
    backend: str,
    weights: str | Path | None = None,
    config: str | Path | None = None,
    boxes: str | Path | Boxes | None = None,
    device: str | None = None,
) -> PoseEstimator:
    """Load the networks of a backend.

    Args:
        backend: "light" (BlazePose; one or a few people, on the CPU), "puppet" (the embedded detector; one puppet),
            "rtmlib" (RTMPose or RTMO, an .onnx file) or "mmpose" (HRNet and its other networks, a .pth file).
        weights: the backend's file, the puppet detector's folder, a hub id, "owner/name" or "owner/name/file", or a
            name of `followyourpose download`, which is downloaded where it is missing; None: the default, `WEIGHTS`.
        config: of mmpose only: a file, or the name of one that it ships; None: the one the weights are named after.
        boxes: a YOLOX or RTMDet .onnx that finds people, its name in `followyourpose download`, or a function; None:
            each frame is one person's box for the top-down networks of rtmlib and mmpose, light has a detector.
        device: cpu, cuda, ...; None: a GPU where the backend can use one, else cpu.

    Raises:
        ValueError: as `check_estimator`, or a file is unreadable or of another kind.
    """
    weights, config, boxes = check_estimator(backend, weights, config, boxes)
    if backend == "light":
        from followyourpose.pose.estimate_light import LightPose

        return PoseEstimator(LightPose(weights, boxes))
    if backend == "rtmlib":
        from followyourpose.pose.estimate_rtmlib import Rtmlib

        return PoseEstimator(Rtmlib(weights, boxes, device))
    if backend == "mmpose":
        from followyourpose.pose.estimate_mmpose import MMPose

        return PoseEstimator(MMPose(weights, config, boxes, device))
    from followyourpose.pose.detector import PuppetDetector

    detector = PuppetDetector.from_pretrained(weights).eval().to(torch_device(device))
    return PoseEstimator(lambda frames: detector.detect(frames)[:, None])  # one person per frame
