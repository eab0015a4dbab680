"""Keypoints -> skeleton frames: coloured limbs on black, the pose input of the network; and pictures to check them."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from followyourpose.common.checks import check_choice
from followyourpose.pose.skeleton import NUM_JOINTS, SEEN, STYLES

_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates: 1/16 pixel
_CANVAS = 256  # pixels; smaller frames are drawn at about this size and reduced: limbs may be thinner than a pixel
_FACE = slice(5)  # joints
_COLORS = ("#ffd60a", "#4cc9f0", "#ff70a6", "#80ed99", "#ff9f1c", "#c77dff", "#ffffff", "#ff5c5c")  # of tracks, in turn


def render_skeleton(
    people: Sequence[np.ndarray],
    height: int,
    width: int,
    min_confidence: float = SEEN,
    thickness: float | None = None,
    style: str = "coco",
) -> np.ndarray:
    """Draw people's skeletons as (H, W, 3) uint8 RGB on black.

    Args:
        people: one array (17, 3) per person: x, y in pixels of the frame, confidence in [0, 1]. None give black.
        height, width: size of the frame in pixels.
        min_confidence: joints below it, and the limbs that end in them, are left out.
        thickness: of the limbs, in pixels; None: 1/50 of the longer side, OpenPose's 1/64.
        style: "coco", MMPose's colours; "coco_bgr", with red and blue swapped, as MMPose drew before 1.0; or
            "openpose", OpenPose's 18 joints: COCO's and a neck between the shoulders.

    Raises:
        ValueError: a person's array is not (17, 3), or there is no such style.
    """
    check_choice("style", style, tuple(STYLES))
    look = STYLES[style]
    scale = max(1, round(_CANVAS / max(height, width)))
    frame = np.zeros((height * scale, width * scale, 3), np.uint8)
    stroke = max(1, round(max(frame.shape) / look.limb_widths if thickness is None else thickness * scale))
    for person in people:
        person = np.asarray(person, np.float32)
        if person.shape != (NUM_JOINTS, 3):
            raise ValueError(f"a person's keypoints have shape {person.shape}, expected ({NUM_JOINTS}, 3)")
        ends = person[look.between]  # (j, 2, 3)
        seen = ends[..., 2].min(1) >= min_confidence
        # Far outside the frame OpenCV's fixed-point numbers overflow; the visible part does not change.
        xy = (np.clip(ends[..., :2].mean(1), -1e4, 1e4) + 0.5) * scale - 0.5
        xy = np.round(xy * 2**_SHIFT).astype(int)
        for start, end, color in look.limbs:
            if seen[start] and seen[end]:
                cv2.line(frame, xy[start].tolist(), xy[end].tolist(), color, stroke, cv2.LINE_AA, _SHIFT)
        for joint in np.flatnonzero(seen):
            radius = int(stroke * look.radius * 2**_SHIFT)
            cv2.circle(frame, xy[joint].tolist(), radius, look.joint_colors[joint], -1, cv2.LINE_AA, _SHIFT)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) if scale > 1 else frame


def overlay(frame: np.ndarray, skeleton: np.ndarray) -> np.ndarray:
    """Lay a skeleton over the frame it was found in, both (H, W, 3) uint8: as opaque as it is bright."""
    transparency = cv2.merge([255 - skeleton.max(-1)] * 3)
    return cv2.add(cv2.multiply(frame, transparency, scale=1 / 255), skeleton)


def numbered(
    frame: np.ndarray, people: Sequence[np.ndarray], ids: Sequence[int], min_confidence: float = SEEN
) -> np.ndarray:
    """Write each person's track id beside the head, in the track's colour, into a copy of a frame (H, W, 3) uint8 RGB.

    Args:
        people: as for `render_skeleton`; ids: of their tracks.
    """
    picture = Image.fromarray(frame)
    draw, size = ImageDraw.Draw(picture), max(10, min(frame.shape[:2]) // 12)
    font, edge = ImageFont.load_default(size), max(1, size // 8)
    for person, number in zip(people, ids, strict=True):
        seen = person[person[:, 2] >= min_confidence, :2]
        face = person[_FACE][person[_FACE, 2] >= min_confidence, :2]
        head = face if len(face) else seen[seen[:, 1].argsort()[:1]]
        if len(head) == 0:
            continue
        text, (left, top), (right, bottom) = str(number), head.min(0), head.max(0)
        fits = right + size / 2 + draw.textlength(text, font) < picture.width
        x = right + size / 2 if fits else left - size / 2
        y = np.clip((top + bottom) / 2, size / 2 + edge, picture.height - size / 2 - edge)
        color = _COLORS[number % len(_COLORS)]
        draw.text((x, y), text, color, font, "lm" if fits else "rm", stroke_width=edge, stroke_fill="black")
    return np.asarray(picture)
