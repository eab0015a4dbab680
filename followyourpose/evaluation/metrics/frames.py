"""Flicker, VBench's temporal flickering, PSNR, SSIM and sharpness, from pixels alone.

LPIPS is missing: torchmetrics takes its networks and weights from torchvision, which this package does without.

Letters: f frames, p people, H W pixels.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from followyourpose.common.pictures import check_frames
from followyourpose.evaluation.metrics.checks import check_finite
from followyourpose.pose.skeleton import JOINT, LIMBS, body_height

if TYPE_CHECKING:  # of torchmetrics alone: masks and changes are computed without the seconds that it takes
    import torch

# Reach of the body around its joints, in body heights: half widths of limbs and trunk, radius and rise of the head.
_LIMB, _TRUNK, _HEAD, _HEAD_RISE = 0.16, 0.30, 0.27, 0.06
_WINDOW = 11  # pixels of SSIM's gaussian window


def body_mask(people: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a generous silhouette (H, W) bool of people (p, 17, 3).

    Limbs are strokes 0.32 body heights wide, the trunk (neck to between the knees) 0.6, the head a disc of radius 0.27:
    room for helmets, capes and skirts, and for small errors of a pose. Joints with confidence 0 draw nothing.

    Raises:
        ValueError: a number is not finite.
    """
    check_finite(people=people)
    mask = np.zeros((height, width), np.uint8)
    for person in people:
        seen, size = person[:, 2] > 0, body_height(person)
        xy = np.clip(person[:, :2], -1e4, 1e4)

        def stroke(a: np.ndarray, b: np.ndarray, radius: float) -> None:
            ends = [tuple(int(round(float(v))) for v in point) for point in (a, b)]
            cv2.line(mask, *ends, 1, max(1, round(2 * radius)))

        for start, end, _ in LIMBS:
            if seen[start] and seen[end]:
                stroke(xy[start], xy[end], _LIMB * size)
        trunk = [xy[[JOINT[f"left_{part}"], JOINT[f"right_{part}"]]].mean(0) for part in ("shoulder", "hip", "knee")
                 if seen[JOINT[f"left_{part}"]] and seen[JOINT[f"right_{part}"]]]  # fmt: skip
        for a, b in zip(trunk[:-1], trunk[1:], strict=True):
            stroke(a, b, _TRUNK * size)
        face = [JOINT[name] for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear") if seen[JOINT[name]]]
        if face:
            head = xy[face].mean(0) - (0.0, _HEAD_RISE * size)
            cv2.circle(mask, tuple(int(round(float(v))) for v in head), max(1, round(_HEAD * size)), 1, -1)
    return mask.astype(bool)


def flicker(frames: np.ndarray, foreground: np.ndarray) -> float:
    """Mean absolute change of the background from a frame to the next, in units of 255 (0: still, 255: black to white).

    A pixel is background of two frames if it is foreground in neither.

    Args:
        frames: (f, H, W, 3) uint8.
        foreground: (f, H, W) bool, such as `body_mask` of each frame's driving keypoints.

    Raises:
        ValueError: the shapes do not fit, there are fewer than two frames, or no pixel is background.
    """
    check_frames(frames, least=2)
    if foreground.shape != frames.shape[:3] or foreground.dtype != bool:
        raise ValueError(f"foreground: got {foreground.shape} {foreground.dtype}, expected {frames.shape[:3]} bool")
    background = ~(foreground[1:] | foreground[:-1])
    if not background.any():
        raise ValueError("the foreground covers every pixel: flicker is undefined")
    return float(_changes(frames)[background].mean())


def temporal_flickering(frames: np.ndarray) -> float:
    """VBench's temporal flickering of frames (f, H, W, 3) uint8, in [0, 1]: (255 - mean absolute change) / 255.

    The change is that of all pixels, the body's motion included (Huang et al., 2024; temporal_flickering.py of VBench,
    meant for videos in which little moves).

    Raises:
        ValueError: the frames are not (f, H, W, 3) uint8 with f >= 2.
    """
    check_frames(frames, least=2)
    return float((255 - _changes(frames).mean()) / 255)


def border_change(frames: np.ndarray, borders: Sequence[int]) -> tuple[float, float]:
    """Mean absolute change from a frame to the next, in units of 255: at the borders of windows, and elsewhere.

    Args:
        frames: (f, H, W, 3) uint8.
        borders: indices of the first frames after a border.

    Raises:
        ValueError: the frames are not (f, H, W, 3) uint8 with f >= 2, or all or none of their changes are at a border.
    """
    check_frames(frames, least=2)
    at = np.zeros(len(frames) - 1, bool)
    at[[border - 1 for border in borders]] = True
    if at.all() or not at.any():
        raise ValueError(
            f"got {at.sum()} borders in {len(frames)} frames, expected at least one, and changes elsewhere"
        )
    change = _changes(frames).mean((1, 2, 3))
    return float(change[at].mean()), float(change[~at].mean())


def psnr(frames: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, mean over frames: 10 log10(255^2 / mean squared difference); inf if one equals.

    Args:
        frames, reference: (f, H, W, 3) uint8.

    Raises:
        ValueError: the frames are not as above, or differ in shape; or torchmetrics is not installed.
    """
    metric = _torchmetrics("peak_signal_noise_ratio")
    return _mean_over_frames(lambda x, y: metric(x, y, data_range=255.0), frames, reference)


def ssim(frames: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004), mean over frames, colours and pixels; in [-1, 1], 1 where they equal.

        (2 m_x m_y + c_1) (2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1) (s_x^2 + s_y^2 + c_2))

    m and s: means and (co)variances in gaussian windows of 11 x 11 pixels with sigma 1.5; c_1 = (0.01 * 255)^2,
    c_2 = (0.03 * 255)^2. Only windows that lie in the frame count, as in the authors' program and in scikit-image.

    Args:
        frames, reference: (f, H, W, 3) uint8.

    Raises:
        ValueError: as `psnr`, or the frames are smaller than a window.
    """
    if min(frames.shape[1:3], default=0) < _WINDOW:
        raise ValueError(f"frames: got {frames.shape}, expected (f, H, W, 3) of at least {_WINDOW} x {_WINDOW} pixels")
    metric, inside = _torchmetrics("structural_similarity_index_measure"), slice(_WINDOW // 2, -(_WINDOW // 2))

    def inner_mean(x: "torch.Tensor", y: "torch.Tensor") -> "torch.Tensor":
        _, everywhere = metric(x, y, data_range=255.0, return_full_image=True)  # (1, 3, H, W), mirrored at the borders
        return everywhere[..., inside, inside].mean()

    return _mean_over_frames(inner_mean, frames, reference)


def sharpness(frames: np.ndarray, reference: np.ndarray, foreground: np.ndarray) -> float:
    """Mean step from a pixel to the next, to the right and down, in the foreground: a share of the reference's.

    Args:
        frames, reference: (f, H, W, 3) uint8; 1 is as sharp as the reference, 0 a plane.
        foreground: (f, H, W) bool, such as `body_mask` of each frame's driving keypoints.

    Raises:
        ValueError: the shapes do not fit, or the reference has no step in the foreground.
    """
    check_frames(frames, least=1)
    if not frames.shape == reference.shape == (*foreground.shape, 3):
        got = f"{reference.shape} and {foreground.shape}"
        raise ValueError(f"reference, foreground: got {got}, expected those of frames {frames.shape}")
    of_each = [
        sum(np.abs(np.diff(side.astype(np.int16), axis=axis, append=side.take([-1], axis)))[foreground].sum()
            for axis in (1, 2))
        for side in (frames, reference)
    ]  # fmt: skip
    if not of_each[1]:
        raise ValueError("the reference has no step in the foreground: sharpness is undefined")
    return float(of_each[0] / of_each[1])


def _mean_over_frames(
    metric: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]", frames: np.ndarray, reference: np.ndarray
) -> float:
    """Mean over frames of a metric of two images (1, 3, H, W) in [0, 255], float64."""
    import torch

    check_frames(frames, least=1)
    check_frames(reference, "reference", least=1)
    if frames.shape != reference.shape:
        raise ValueError(f"reference: got {reference.shape}, expected the shape of the frames, {frames.shape}")
    pairs = zip(*(torch.from_numpy(side.copy()).movedim(-1, 1)[:, None] for side in (frames, reference)), strict=True)
    return float(np.mean([float(metric(x.double(), y.double())) for x, y in pairs]))


def _torchmetrics(name: str) -> "Callable[..., torch.Tensor]":
    try:
        from torchmetrics.functional import image
    except ImportError as error:
        raise ValueError(f'{name}: torchmetrics is not installed; pip install -e ".[eval]"') from error
    return getattr(image, name)


def _changes(frames: np.ndarray) -> np.ndarray:
    """Absolute difference of each frame and the next: (f, H, W, 3) uint8 -> (f - 1, H, W, 3) int16."""
    return np.abs(np.diff(frames.astype(np.int16), axis=0))
