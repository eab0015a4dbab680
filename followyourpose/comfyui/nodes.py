"""Nodes of ComfyUI that load a model, bring a skeleton to its size, and generate; its V3 schema.

Images are tensors (f, H, W, 3) in [0, 1]: f frames, H W pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, io

from followyourpose.comfyui.nodes_people import ALONG, PEOPLE, PLACED, AddPerson, Along, placed
from followyourpose.comfyui.nodes_pose import (
    KEYPOINTS,
    LoadKeypoints,
    Retarget,
    VideoKeypoints,
    clip_of,
    to_bytes,
    to_images,
)
from followyourpose.comfyui.schema import node, widget
from followyourpose.common.checks import check_multiple, counted
from followyourpose.common.pictures import evenly
from followyourpose.config import GenerateConfig, LoraEntry, build_config, find_model
from followyourpose.config.sampling import LARGEST_SEED, LARGEST_SIDE, MOST_STEPS
from followyourpose.generation.checks import check_settings, model_size
from followyourpose.generation.generate import load_pipeline, print_unknown_words, stream
from followyourpose.generation.sampling import scheduler
from followyourpose.generation.skeletons import SkeletonInput, frames_used, open_skeleton, print_cut_off
from followyourpose.pipeline.denoise import StreamState
from followyourpose.pipeline.pipeline import FollowYourPosePipeline
from followyourpose.pipeline.schedule import along as texts_along
from followyourpose.pipeline.schedule import values_of
from followyourpose.pipeline.windows import LongVideo
from followyourpose.pose.recognise import drawing_of

MODEL, LORAS = io.Custom("FOLLOWYOURPOSE_MODEL"), io.Custom("FOLLOWYOURPOSE_LORAS")
# Bytes of memory beside the weights for a pixel, in bytes of a number: of each frame of a window while it is denoised,
# and of each frame that the VAE decodes at a time; scripts/README.md has the measurements.
DENOISING, DECODING = 300, 1100


@dataclass(frozen=True)
class Model:
    """A pipeline whose place, GPU or memory, ComfyUI decides.

    Attributes:
        patcher: its networks, as ComfyUI moves them; scheduler: its own; config: the settings that it was loaded with.
        side: pixels of the height and the width at which it was trained; divisor: pixels that divide those of a video.
    """

    pipe: FollowYourPosePipeline
    patcher: ModelPatcher
    scheduler: Any
    config: dict[str, Any]
    side: int
    divisor: int

    def on_device(self, config: GenerateConfig, pixels: int) -> FollowYourPosePipeline:
        """Return the pipeline on ComfyUI's device, with room for frames of so many pixels, and the scheduler chosen."""
        window = len(config.long_video.windows(config.num_frames)[0])
        need = pixels * max(DENOISING * window, DECODING * min(config.decode_chunk_size, config.num_frames))
        model_management.load_models_gpu(
            [self.patcher], memory_required=need * self.pipe.unet.dtype.itemsize, force_full_load=True
        )
        self.pipe.scheduler = scheduler(config.scheduler, self.scheduler)
        return self.pipe


class LoadModel(io.ComfyNode):
    """A model by its path, name or hub id."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node(
            "Model",
            "Load Follow Your Pose",
            "Loads a model. checkpoints/puppet is in the package; `followyourpose download` lists others.",
            [
                widget(GenerateConfig, "model", name="checkpoint", tooltip="A folder, a downloaded name, or a hub id."),
                widget(GenerateConfig, "dtype", default="auto", options=["auto", "float32", "float16", "bfloat16"]),
                widget(GenerateConfig, "weights"),
                widget(GenerateConfig, "vae_tiling"),
                LORAS.Input("loras", optional=True),
            ],
            [MODEL.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, checkpoint: str, dtype: str, weights: str, vae_tiling: bool, loras: Any = None) -> io.NodeOutput:
        device = model_management.get_torch_device()
        if dtype == "auto":
            dtype = "float16" if model_management.should_use_fp16(device) else "float32"
        settings = {"model": checkpoint.strip(), "dtype": dtype, "weights": weights, "vae_tiling": vae_tiling}
        # ComfyUI moves it to its device when a video is generated.
        config = _config(**settings, lora=list(loras or []), device="cpu")
        check_settings(config)
        pipe = load_pipeline(config)
        pipe.set_progress_bar_config(disable=True)
        networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
        offload = model_management.unet_offload_device()
        patcher = ModelPatcher(torch.nn.ModuleDict(networks), load_device=device, offload_device=offload)
        settings |= {"offload": "model"}  # by ComfyUI
        size = model_size(find_model(config.model, "model"))
        return io.NodeOutput(Model(pipe, patcher, pipe.scheduler, settings, *size))


class AddLora(io.ComfyNode):
    """One more LoRA for a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        place = "A file of models/loras, a path, or a hub id; of Stable Diffusion 1.x."
        return node(
            "Lora",
            "LoRA for Follow Your Pose",
            "A LoRA, merged into the model when it is loaded; several are chained.",
            [
                io.String.Input("lora", default="", tooltip=place),
                widget(LoraEntry, "weight", -10, 10, step=0.05),
                LORAS.Input("loras", optional=True),
            ],
            [LORAS.Output(display_name="loras")],
        )

    @classmethod
    def execute(cls, lora: str, weight: float, loras: Any = None) -> io.NodeOutput:
        if not (name := lora.strip()):
            raise ValueError("lora: got none, expected a file of models/loras, a path, or a Hugging Face id")
        path = folder_paths.get_full_path("loras", name) or name
        return io.NodeOutput([*(loras or []), {"path": path, "weight": weight}])


class Skeleton(io.ComfyNode):
    """A skeleton as a model needs it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sources = "Images of limbs on black, or keypoints; nothing: the people or, without any, the sample, a dance."
        return node(
            "Skeleton",
            "Skeleton for Follow Your Pose",
            "Takes frames of a drawn skeleton or of keypoints, and brings them to the size of the model.",
            [
                MODEL.Input("model"),
                io.MultiType.Input("source", [io.Image, KEYPOINTS], optional=True, tooltip=sources),
                widget(GenerateConfig, "num_frames", 1),
                widget(GenerateConfig, "temporal_offset"),
                widget(GenerateConfig, "stride", 1),
                widget(GenerateConfig, "skeleton_end"),
                widget(GenerateConfig, "fit"),
                widget(GenerateConfig, "width", high=LARGEST_SIDE, step=8),
                widget(GenerateConfig, "height", high=LARGEST_SIDE, step=8),
                PEOPLE.Input("people", optional=True),
            ],
            [io.Image.Output(display_name="skeleton"), PLACED.Output(display_name="people")],
        )

    @classmethod
    def execute(
        cls, model: Model, width: int, height: int, source: Any = None, people: Any = None, **chosen: Any
    ) -> io.NodeOutput:
        size = (height or model.side, width or model.side)
        for key, side in zip(("height", "width"), size, strict=True):
            check_multiple(key, side, model.divisor, "pixels")
        config = _config(**model.config, **chosen)
        together = None
        if people:
            together, people = placed(people, size, config)
        if source is None:
            return io.NodeOutput(to_images((together or open_skeleton(config)).frames(*size)), people)
        clip = None if isinstance(source, torch.Tensor) else clip_of("source", source)
        indices = frames_used(config, len(source if clip is None else clip.frames))
        if clip is not None:
            drawn = SkeletonInput(Path("source"), indices, (clip.height, clip.width), config, clip)
            print_cut_off(drawn, *size)
            frames, kind = drawn.frames(*size), None
        else:
            given = to_bytes("source", source[indices])
            drawn = SkeletonInput(Path("source"), indices, given.shape[1:3], config)
            frames, kind = drawn.geometry(*size).of_frames(given), drawing_of(given[evenly(len(given), 5)])
        if kind == "raw":
            raise ValueError("source: got a raw video, expected limbs on black; put Keypoints from Video between")
        if kind == "empty" or not frames.any():
            raise ValueError(f"source: shows nobody in the {counted(len(frames), 'frame')} chosen, expected a skeleton")
        return io.NodeOutput(to_images(frames), people)


class Generate(io.ComfyNode):
    """A video of a prompt and a skeleton."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node(
            "Generate",
            "Generate with Follow Your Pose",
            "Draws characters that move as the skeleton does, as many frames as it has. The prompt may be lines, "
            "each behind the frame from which it holds: 0: a panda in the snow.",
            [
                MODEL.Input("model"),
                io.Image.Input("skeleton", tooltip="From Skeleton for Follow Your Pose."),
                io.String.Input("prompt", multiline=True, default="an astronaut on the moon"),
                io.String.Input("negative_prompt", multiline=True, default=""),
                widget(GenerateConfig, "seed", high=LARGEST_SEED, control_after_generate=True),
                widget(GenerateConfig, "num_inference_steps", 1, MOST_STEPS),
                widget(GenerateConfig, "guidance_scale", high=100, step=0.5),
                widget(GenerateConfig, "scheduler"),
                widget(GenerateConfig, "pose_scale", high=10, step=0.05),
                widget(GenerateConfig, "pose_guidance"),
                widget(GenerateConfig, "noise"),
                widget(LongVideo, "mode", name="long_video"),
                widget(LongVideo, "window"),
                widget(GenerateConfig, "decode_chunk_size", 1, 64),
                PLACED.Input("people", optional=True, tooltip="From Skeleton for Follow Your Pose."),
                ALONG.Input("along", optional=True),
            ],
            [io.Image.Output(display_name="images")],
        )

    @classmethod
    def execute(
        cls, model: Model, skeleton: torch.Tensor, prompt: str, long_video: str, window: int, people: Any = None,
        along: Any = None, **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        frames = to_bytes("skeleton", skeleton)
        plan = {"mode": long_video, "window": min(window, len(frames)) or None}
        settings |= {"num_frames": len(frames), "long_video": plan} | (along or {})
        config = _config(texts_along("prompt", prompt), **model.config, **settings)
        height, width = frames.shape[1:3]
        prompts = [config.prompt, *(person["prompt"] for person in people or [])]
        print_unknown_words([text for each in prompts for text in values_of(each)], model.pipe)
        pipe = model.on_device(config, height * width)
        rounds = 1 if config.long_video.together else len(config.long_video.windows(len(frames)))
        bar = ProgressBar(rounds * config.num_inference_steps)

        def progress(_: Any, step: int, timestep: Any, tensors: Any) -> None:
            model_management.throw_exception_if_processing_interrupted()
            bar.update(1)

        parts = stream(
            pipe,
            config,
            config.prompt,
            lambda numbers: frames[list(numbers)],
            (height, width),
            config.seed,
            StreamState(),
            progress,
            people,
        )
        return io.NodeOutput(to_images(np.concatenate(list(parts))))


class FollowYourPose(ComfyExtension):
    """The nodes of this package."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        pose = [VideoKeypoints, LoadKeypoints, Retarget, Skeleton]
        return [LoadModel, AddLora, *pose, AddPerson, Along, Generate]


def _config(prompt: str | dict[int, str] = "", **settings: Any) -> GenerateConfig:
    return build_config(GenerateConfig, settings | {"prompt": prompt}, name="settings")
