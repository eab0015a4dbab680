"""Pose estimation: frames -> people with their keypoints, one interface for three backends.

Letters: n frames, p people, H W pixels. A person is (17, 3): COCO-17, x, y in pixels of the frame, confidence.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from followyourpose.common.checks import check_choice, check_installed
from followyourpose.common.device import torch_device
from followyourpose.pose.skeleton import NUM_JOINTS, SEEN

# Backend -> its documented weights, relative to the repository. Downloads keep their own names.
WEIGHTS = {
    "puppet": "checkpoints/puppet-eval/detector",
    "rtmlib": "checkpoints/rtmo-m_16xb16-600e_body7-640x640-39e78cc4_20231211.onnx",
    "mmpose": "checkpoints/td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth",
}
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
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"frames are {frames.shape} {frames.dtype}, expected (n, H, W, 3) uint8")
        found = [np.asarray(poses, np.float32).reshape(-1, NUM_JOINTS, 3).copy() for poses in self._find(frames)]
        for poses in found:
            poses[..., 2] = poses[..., 2].clip(0, 1)  # the peak of a heatmap may be a little outside
        return [[pose for pose in poses if (pose[:, 2] >= SEEN).sum() >= _FEWEST] for poses in found]


def check_estimator(
    backend: str, weights: str | Path, config: str | Path | None = None, boxes: str | Path | None = None
) -> None:
    """Check the arguments of `open_estimator` without importing or loading a network.

    Raises:
        ValueError: the backend is unknown or not installed, or a file is missing or of no use to it.
    """
    check_choice("backend", backend, tuple(WEIGHTS))
    for key, path in (("weights", weights), ("boxes", boxes)):
        if path is not None and not Path(path).exists():
            hint = f"checkpoints/README.md lists the downloads for {backend} and their places"
            raise ValueError(f"{key}: {path}: no such file or folder; {hint}")
    if backend == "puppet" and not (Path(weights) / "config.json").is_file():
        raise ValueError(f"weights: {weights}: has no config.json, expected a puppet detector's folder")
    if config is not None and backend != "mmpose":
        raise ValueError(f"config: got {config}, expected none: only the backend mmpose has configs")
    if boxes is not None and backend == "puppet":
        raise ValueError(f"boxes: got {boxes}, expected none: the puppet detector takes whole frames")
    if backend == "mmpose":
        from followyourpose.pose.estimate_mmpose import check_mmpose

        check_mmpose()
    if backend == "rtmlib" or boxes is not None:
        check_installed(f"backend {backend}", "pose", "rtmlib", "onnxruntime")


def open_estimator(
    backend: str,
    weights: str | Path,
    config: str | Path | None = None,
    boxes: str | Path | None = None,
    device: str | None = None,
) -> PoseEstimator:
    """Load the networks of a backend.

    Args:
        backend: "puppet" (the embedded detector; one person), "rtmlib" (RTMPose or RTMO, an .onnx file) or "mmpose"
            (HRNet and its other networks, a .pth file).
        weights: the backend's file, or the puppet detector's folder; `WEIGHTS` lists the documented ones.
        config: of mmpose only: a file, or the name of one that it ships; None: the one the weights are named after.
        boxes: a YOLOX or RTMDet .onnx that finds people for the top-down networks of rtmlib and mmpose; None: each
            frame is one person's box.
        device: cpu, cuda, ...; None: cuda where the backend can use one, else cpu.

    Raises:
        ValueError: as `check_estimator`, or a file is unreadable or of another kind.
    """
    check_estimator(backend, weights, config, boxes)
    if backend == "rtmlib":
        from followyourpose.pose.estimate_rtmlib import Rtmlib

        return PoseEstimator(Rtmlib(Path(weights), boxes, device))
    if backend == "mmpose":
        from followyourpose.pose.estimate_mmpose import MMPose

        return PoseEstimator(MMPose(Path(weights), config, boxes, device))
    return PoseEstimator(_puppet(Path(weights), device))


def _puppet(weights: Path, device: str | None) -> Callable[[np.ndarray], np.ndarray]:
    from followyourpose.pose.detector import PuppetDetector

    detector = PuppetDetector.from_pretrained(weights).eval().to(torch_device(device))
    return lambda frames: detector.detect(frames)[:, None]  # one person per frame
