"""RTMPose and RTMO (arXiv 2303.07399, 2312.07526) on ONNX Runtime through rtmlib, and boxes by YOLOX or RTMDet.

The outputs of an .onnx file distinguish RTMPose, RTMO and detectors of boxes; its input holds the image size.
Letters: n frames or crops, p people, k joints, H W pixels, h w pixels of the network's input.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from followyourpose.pose.skeleton import NUM_JOINTS

_BATCH = 32  # crops at a time, for files with a free batch size
_JOINTS = (17, 26, 133)  # COCO, Halpe and COCO-WholeBody: the first 17 of each are COCO's
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}

Boxes = Callable[[np.ndarray], np.ndarray]  # a frame (H, W, 3) uint8 BGR -> boxes (p, 4): left, top, right, bottom


class Rtmlib:
    """Poses by RTMPose in boxes, or by RTMO in whole frames.

    Args:
        weights: the .onnx file of either; boxes: the .onnx file of a detector for RTMPose, None: whole frames.

    Raises:
        ValueError: the device is not there, or a file is none of these networks.
    """

    def __init__(self, weights: Path, boxes: str | Path | None, device: str | None) -> None:
        import rtmlib

        device, file = onnx_device(device), _inspect(weights)
        self.one_stage = file.ranks == (3, 4)  # RTMO: boxes (n, p, 5), people (n, p, k, 3)
        if not self.one_stage and file.ranks != (3, 3):  # RTMPose: where along x (n, k, 2 w), and along y (n, k, 2 h)
            raise ValueError(f"weights: {weights}: got outputs of {file.ranks} dimensions, expected RTMPose or RTMO")
        if self.one_stage and boxes is not None:
            raise ValueError(f"boxes: got {boxes}, expected none: {weights.name} is RTMO, which finds people itself")
        size = (file.height, file.width) if self.one_stage else (file.width, file.height)  # each class has its order
        self.network = _load(rtmlib.RTMO if self.one_stage else rtmlib.RTMPose, weights, size, device)
        self.batch = _BATCH if file.any_batch else 1
        self.boxes = open_boxes(boxes, device)

    def __call__(self, frames: np.ndarray) -> list[np.ndarray]:
        """Frames (n, H, W, 3) uint8 RGB -> for each the poses (p, 17, 3) found in it."""
        frames = to_bgr(frames)
        return [self._people(frame) for frame in frames] if self.one_stage else self._in_boxes(frames)

    def _people(self, frame: np.ndarray) -> np.ndarray:
        image, ratio = self.network.preprocess(frame)
        outputs = self.network.inference(image)
        if outputs[0].shape[1] == 0:  # rtmlib fails on an empty list of people
            return np.zeros((0, NUM_JOINTS, 3), np.float32)
        return _checked(*self.network.postprocess(outputs, ratio, self.network.nms_thr, self.network.score_thr))

    def _in_boxes(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        crops = [(index, box) for index, frame in enumerate(frames) for box in self.boxes(frame)]
        session, found = self.network.session, []
        for start in range(0, len(crops), self.batch):
            chunk = crops[start : start + self.batch]
            images, centers, scales = zip(*(self.network.preprocess(frames[i], box) for i, box in chunk), strict=True)
            batch = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)  # (n, 3, h, w)
            outputs = session.run(None, {session.get_inputs()[0].name: batch})
            for number, (index, _) in enumerate(chunk):
                one = [output[number : number + 1] for output in outputs]
                found.append((index, _checked(*self.network.postprocess(one, centers[number], scales[number]))))
        return by_frame(found, len(frames))


def to_bgr(frames: np.ndarray) -> list[np.ndarray]:
    """Frames (n, H, W, 3) RGB -> a list of contiguous (H, W, 3) BGR, the colours of OpenCV and of both libraries."""
    return [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]


def to_poses(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Keypoints (p, k, 2) and scores (p, k) of COCO's joints and perhaps others behind them -> poses (p, 17, 3)."""
    return np.concatenate([keypoints, scores[..., None]], -1)[:, :NUM_JOINTS].astype(np.float32)


def by_frame(found: list[tuple[int, np.ndarray]], total: int) -> list[np.ndarray]:
    """Collect poses (p, 17, 3), each with the index of its frame, as one (p, 17, 3) for each of `total` frames."""
    frames = [[np.zeros((0, NUM_JOINTS, 3), np.float32)] for _ in range(total)]
    for index, poses in found:
        frames[index].append(poses)
    return [np.concatenate(each) for each in frames]


def open_boxes(path: str | Path | Boxes | None, device: str | None) -> Boxes:
    """Load a detector of people's boxes (p, 4) in a frame (H, W, 3) uint8 BGR; None: one box, the whole frame.

    A file with "rtmdet" in its name is an RTMDet, any other a YOLOX: they differ only in the colours that they expect.
    A function is taken as it is.

    Raises:
        ValueError: as for `Rtmlib`.
    """
    if callable(path):
        return path
    if path is None:
        return lambda frame: np.array([[0, 0, frame.shape[1], frame.shape[0]]], np.float32)
    import rtmlib

    file, path = _inspect(Path(path)), Path(path)
    if file.ranks[0] != 3 or file.ranks == (3, 3) or file.ranks == (3, 4):
        raise ValueError(f"boxes: {path}: got outputs of {file.ranks} dimensions, expected a detector: YOLOX or RTMDet")
    network = rtmlib.RTMDet if "rtmdet" in path.name.lower() else rtmlib.YOLOX
    return _load(network, path, (file.height, file.width), onnx_device(device))


def onnx_device(device: str | None) -> str:
    """Return cpu, cuda, cuda:1, ... or mps, checked against ONNX Runtime; None: cuda where it is there, else cpu.

    Raises:
        ValueError: ONNX Runtime has no such device here.
    """
    import onnxruntime

    there = [name for name, provider in _PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
    if device is None:
        return "cuda" if "cuda" in there else "cpu"
    if device.split(":")[0] not in there:
        hint = "; pip install onnxruntime-gpu in its place for cuda" if device.startswith("cuda") else ""
        raise ValueError(f"device: got {device!r}, ONNX Runtime has {', '.join(there)} here{hint}")
    return device


class _File(NamedTuple):
    """Facts of an .onnx file: size of its input, whether the batch size is free, ranks of its outputs."""

    height: int
    width: int
    any_batch: bool
    ranks: tuple[int, ...]


def _inspect(path: Path) -> _File:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no other class
        raise ValueError(f"{path}: cannot be read as an .onnx file ({' '.join(str(error).split())[:120]})") from error
    batch, _, height, width = (*session.get_inputs()[0].shape, None, None, None, None)[:4]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ValueError(f"{path}: got an input {session.get_inputs()[0].shape}, expected (n, 3, h, w) of a fixed size")
    ranks = tuple(len(output.shape) for output in session.get_outputs())
    return _File(height, width, not isinstance(batch, int), ranks)


def _checked(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if keypoints.shape[1] not in _JOINTS:
        raise ValueError(f"weights: got a network of {keypoints.shape[1]} joints, expected one of {_JOINTS}")
    return to_poses(keypoints, scores)


def _load(network: Any, path: Path, size: tuple[int, int], device: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the file's name
        return network(str(path), model_input_size=size, backend="onnxruntime", device=device)
