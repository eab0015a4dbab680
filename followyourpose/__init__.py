"""Follow Your Pose: pose-guided text-to-video generation with pose-free videos (arXiv 2304.01186)."""

from typing import Any

__all__ = ["FollowYourPosePipeline", "PoseEncoder", "VideoUNet", "prepare_process", "skeleton_tensor"]

_HOMES = {
    "FollowYourPosePipeline": "followyourpose.pipeline.pipeline",
    "PoseEncoder": "followyourpose.models.pose_encoder",
    "VideoUNet": "followyourpose.models.unet",
    "prepare_process": "followyourpose.common.device",
    "skeleton_tensor": "followyourpose.pipeline.skeletons",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: `followyourpose --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from followyourpose.common.device import hide_torchvision_hints

    hide_torchvision_hints()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
