"""Recognition of drawn skeletons: in MMPose's colours, in OpenPose's, in others, or no drawing but a raw video.

A drawing is thin lines on black. Colours are compared by hue, which compression leaves of lines that are a pixel wide.
Letters: f frames, H W pixels.
"""

from typing import Literal

import cv2
import numpy as np

from followyourpose.pose.skeleton import LEFT, MIDDLE, RIGHT

Drawing = Literal["coco", "openpose", "wholebody", "other", "empty", "raw"]

COLOURS = {"openpose": "OpenPose's colours", "wholebody": "DWPose's colours, with a face", "other": "other colours"}
LOOKED_AT = 5  # frames by which the drawing of a video is recognised
_SIDE = 384  # pixels: larger frames are reduced
_BLACK, _BRIGHT = 24, 60  # of 255, the largest channel of a pixel: at most, and above
_STROKE = 1 / 12  # of the longer side: what is wider in both directions is no line


def drawing_of(frames: np.ndarray) -> Drawing:
    """Return how frames (f, H, W, 3) uint8 RGB are drawn.

    "coco": in MMPose's colours; "openpose": in OpenPose's, of the body alone; "wholebody": with the white points of a
    face, as DWPose draws it; "other": lines of other colours; "empty": black; "raw": no lines on black.
    """
    pixels = black = bright = wide = white = 0
    hues = []
    for frame in frames:
        scale = min(1.0, _SIDE / max(frame.shape))
        size = [max(1, round(scale * side)) for side in frame.shape[1::-1]]
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        high, low = frame.max(-1), frame.min(-1)
        lit = high > _BRIGHT / 255
        stroke = max(2, int(_STROKE * max(size)))
        pixels, black, bright = pixels + lit.size, black + (high <= _BLACK / 255).sum(), bright + lit.sum()
        wide += cv2.morphologyEx(lit.astype(np.uint8), cv2.MORPH_OPEN, np.ones((stroke, stroke), np.uint8)).sum()
        white += (low > 0.8).sum()
        hues.append(cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[lit & (high - low > 0.6 * high)][:, 0])
    if bright < 1e-4 * pixels:
        return "empty" if black >= 0.9 * pixels else "raw"
    hue = np.concatenate(hues)
    own = cv2.cvtColor(np.float32([[LEFT, RIGHT, MIDDLE]]) / 255, cv2.COLOR_RGB2HSV)[0, :, 0]  # hues in degrees
    mmpose = (np.abs((hue[:, None] - own + 180) % 360 - 180) < 8).any(1).sum() / bright
    kinds = (np.bincount(np.round(hue / 20).astype(int) % 18, minlength=18) > 0.03 * bright).sum()
    black, wide, between = black / pixels, wide / bright, (pixels - black - bright) / bright
    if mmpose >= 0.6 and black >= 0.1 and (wide < 0.3 or kinds >= 3):
        return "coco"
    if len(hue) >= 0.75 * bright and kinds >= 8 and black >= 0.2 and wide < 0.6:
        return "wholebody" if white >= 0.02 * bright else "openpose"
    pure = len(hue) >= 0.9 * bright  # shapes in plain colours, which no camera sees
    return "other" if black >= 0.8 and (pure or wide < 0.2 and between < 0.5) else "raw"
