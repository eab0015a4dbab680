"""MMPose (the paper's keypoints: HRNet, arXiv 1902.09212): a config and weights -> people in frames.

MMPose 1.3.2 imports packages without builds for today's PyTorch and numpy, for networks and metrics that are not used
here. Stand-ins replace the missing ones while it is imported.
Letters: n frames, p people, k joints, H W pixels.
"""

import importlib
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from followyourpose.common.checks import check_installed
from followyourpose.common.device import torch_device
from followyourpose.pose.estimate_rtmlib import by_frame, open_boxes, to_bgr, to_poses
from followyourpose.pose.skeleton import JOINTS, NUM_JOINTS

_BATCH = 16  # crops, or frames, at a time
INSTALL = " && pip install --no-deps mmpose==1.3.2"  # behind the extra: some of its dependencies have no builds
_PUBLISH = "a checkpoint of your own training first has to go through MMPose's tools/misc/publish_model.py"
# Module that MMPose imports -> module that it needs; where that is missing, a stand-in takes its place.
_STAND_INS = {
    "mmcv.ops": "mmcv._ext",  # compiled operators, which mmcv-lite leaves out
    "mmdet": "mmdet",
    "xtcocotools": "xtcocotools",
    "mmpose.visualization.simcc_vis": "torchvision",
}


class MMPose:
    """Poses by a top-down network in boxes, or by a bottom-up one in whole frames.

    Args:
        weights: a .pth file; config: see `open_estimator`; boxes: the .onnx file of a detector, None: whole frames.

    Raises:
        ValueError: MMPose cannot be imported, or the config and the weights are not of one network of COCO's joints.
    """

    def __init__(self, weights: Path, config: str | Path | None, boxes: str | Path | None, device: str | None) -> None:
        import_mmpose()
        from mmengine.dataset import Compose
        from mmpose.models import BottomupPoseEstimator, TopdownPoseEstimator

        self.model = _load(weights, find_config(weights, config), torch_device(device))
        self.top_down = isinstance(self.model, TopdownPoseEstimator)
        if not self.top_down and not isinstance(self.model, BottomupPoseEstimator):
            raise ValueError(f"config: got a {type(self.model).__name__}, expected an estimator of poses in images")
        if boxes is not None and not self.top_down:
            raise ValueError(f"boxes: got {boxes}, expected none: a bottom-up network finds people itself")
        names = [self.model.dataset_meta["keypoint_id2name"].get(index) for index in range(NUM_JOINTS)]
        if tuple(names) != JOINTS:
            raise ValueError(f"weights: {weights}: got joints that begin {names[:3]}, expected COCO's {JOINTS[:3]}")
        self.pipeline = Compose(self.model.cfg.test_dataloader.dataset.pipeline)
        self.boxes = open_boxes(boxes, device)

    def __call__(self, frames: np.ndarray) -> list[np.ndarray]:
        """Frames (n, H, W, 3) uint8 RGB -> for each the poses (p, 17, 3) found in it."""
        import torch
        from mmengine.dataset import pseudo_collate

        frames = to_bgr(frames)
        inputs, found = [(index, box) for index, frame in enumerate(frames) for box in self._places(frame)], []
        for start in range(0, len(inputs), _BATCH):
            chunk = inputs[start : start + _BATCH]
            samples = [self.pipeline({"img": frames[i], **box, **self.model.dataset_meta}) for i, box in chunk]
            with torch.no_grad():
                results = self.model.test_step(pseudo_collate(samples))
            poses = [(result.pred_instances.keypoints, result.pred_instances.keypoint_scores) for result in results]
            found += [(index, to_poses(*map(np.asarray, each))) for (index, _), each in zip(chunk, poses, strict=True)]
        return by_frame(found, len(frames))

    def _places(self, frame: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Pipeline inputs for each place in a frame (H, W, 3): a box; for a bottom-up network none."""
        if not self.top_down:
            return [{}]
        return [{"bbox": box[None], "bbox_score": np.ones(1, np.float32)} for box in self.boxes(frame)]


def find_config(weights: Path, config: str | Path | None) -> Path:
    """Find the config of a network: a file, or one that MMPose ships, by its name or the start of the weights' name.

    Raises:
        ValueError: there is none.
    """
    if config is not None and Path(config).is_file():
        return Path(config)
    import mmpose

    shipped = {file.stem: file for file in (Path(mmpose.__file__).parent / ".mim" / "configs").rglob("*.py")}
    if config is not None:
        if Path(config).stem in shipped:
            return shipped[Path(config).stem]
        raise ValueError(f"config: {config}: no such file, and none that MMPose ships has that name")
    names = [name for name in shipped if weights.name.startswith(name)]
    if not names:
        raise ValueError(f"config: none that MMPose ships fits {weights.name} by its name; give one")
    return shipped[max(names, key=len)]


def _load(weights: Path, config: Path, device: str) -> Any:
    """Load a network and its weights, strictly: MMPose itself only warns of a missing weight."""
    import torch
    from mmpose.apis import init_model

    try:
        model = init_model(config, device=device)  # without the backbone's own weights, a download
    except (KeyError, AttributeError, TypeError, SyntaxError, OSError) as error:
        raise ValueError(f"config: {config}: not a config of MMPose ({type(error).__name__}: {error})") from error
    # The joints' names are in numpy arrays, mostly of numpy 1, under its module names.
    arrays = (np._core.multiarray._reconstruct, np._core.multiarray.scalar)
    old = [(each, f"numpy.core.multiarray.{each.__name__}") for each in arrays]
    kinds = {type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"}
    try:
        with torch.serialization.safe_globals([*arrays, *old, np.ndarray, np.dtype, *kinds]):
            checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["state_dict"])
    except Exception as error:  # no checkpoint, or other names or shapes: each has a class of its own
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, pickle.UnpicklingError):  # PyTorch's message is a page
            reason = f"it holds more than weights and arrays, or less; {_PUBLISH}"
        raise ValueError(f"weights: {weights}: not the weights of {config.stem} ({reason})") from error
    meta = checkpoint.get("meta", {}).get("dataset_meta")
    if meta is not None:
        model.dataset_meta = meta
    return model


# ---- import ---------------------------------------------------------------------------------------------------------


def check_mmpose() -> None:
    """Raise a ValueError with the command that installs MMPose unless it is there; nothing is imported."""
    check_installed("backend mmpose", "mmpose", "mmengine", "mmcv", "mmpose", then=INSTALL)


def import_mmpose() -> None:
    """Import `mmpose.apis`, which takes seconds.

    Raises:
        ValueError: it cannot be imported; the message has the command that installs it.
    """
    if "mmpose.apis" in sys.modules:
        return
    try:
        with _stand_ins():
            importlib.import_module("mmpose.apis")
    except (ImportError, AssertionError) as error:  # its own check of versions is an assertion
        message = f'backend mmpose: cannot be imported ({error}); pip install -e ".[mmpose]"{INSTALL}'
        raise ValueError(message) from error


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Make the missing modules of `_STAND_INS` importable, as empty ones, and remove them afterwards."""
    finder = _Finder(tuple(name for name, needs in _STAND_INS.items() if not _can_import(needs)))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if finder.has(name)]:
            del sys.modules[name]


def _can_import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # one that fails, as torchvision of another PyTorch does, is as good as missing
        return False
    return True


class _Finder(MetaPathFinder, Loader):
    """Finder and loader of stand-ins for packages and their submodules."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def has(self, name: str) -> bool:
        return any(name == stand_in or name.startswith(f"{stand_in}.") for stand_in in self.names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if self.has(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _StandIn(ModuleType):
    """Module in which every name is an empty class, to be imported and inherited from."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
