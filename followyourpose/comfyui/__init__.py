"""ComfyUI: nodes that load a model, find and draw skeletons, and generate; `followyourpose comfyui install`."""

from typing import Any


async def comfy_entrypoint() -> Any:
    """Return the extension that ComfyUI asks a folder of nodes for."""
    from followyourpose.comfyui.nodes import FollowYourPose  # late: it imports ComfyUI

    return FollowYourPose()
