"""The folder in ComfyUI's custom_nodes, written by `followyourpose comfyui install`: the nodes are in the package."""

from followyourpose.comfyui import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
