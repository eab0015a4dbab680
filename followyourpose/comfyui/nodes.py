"""Nodes of ComfyUI that load a model, bring a skeleton to its size, and generate; its V3 schema.

Images are tensors (f, H, W, 3) in [0, 1]: f frames, H W pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import folder_paths
import numpy as np
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, io

from followyourpose.comfyui.nodes_pose import (
    CATEGORY,
    KEYPOINTS,
    LoadKeypoints,
    Retarget,
    VideoKeypoints,
    clip_of,
    to_bytes,
    to_images,
)
from followyourpose.common.checks import check_multiple, counted
from followyourpose.common.pictures import evenly
from followyourpose.config import GenerateConfig, Noise, PoseGuidance, build_config, find_model
from followyourpose.config.sampling import LARGEST_SEED, MOST_STEPS, Scheduler
from followyourpose.data.transforms import ENDS, frame_indices
from followyourpose.generation.checks import check_settings, model_size
from followyourpose.generation.generate import load_pipeline, print_unknown_words, stream
from followyourpose.generation.sampling import scheduler
from followyourpose.generation.skeletons import SkeletonInput, open_skeleton, print_cut_off
from followyourpose.pipeline.denoise import StreamState
from followyourpose.pipeline.pipeline import FollowYourPosePipeline
from followyourpose.pipeline.windows import MODES, WINDOW, LongVideo
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
        return io.Schema(
            node_id="FollowYourPoseModel",
            display_name="Load Follow Your Pose",
            category=CATEGORY,
            description="Loads a model. checkpoints/puppet is in the package; `followyourpose download` lists others.",
            inputs=[
                io.String.Input(
                    "checkpoint",
                    default="checkpoints/puppet",
                    tooltip="A folder, a downloaded name, or a Hugging Face id.",
                ),
                io.Combo.Input("dtype", options=["auto", "float32", "float16", "bfloat16"], default="auto"),
                io.Combo.Input(
                    "weights",
                    options=["full", "int8", "float8"],
                    default="full",
                    tooltip="int8, float8: a smaller UNet in memory.",
                ),
                io.Boolean.Input("vae_tiling", default=False, tooltip="Decode large frames in overlapping tiles."),
                LORAS.Input("loras", optional=True),
            ],
            outputs=[MODEL.Output(display_name="model")],
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
        return io.Schema(
            node_id="FollowYourPoseLora",
            display_name="LoRA for Follow Your Pose",
            category=CATEGORY,
            description="A LoRA, merged into the model when it is loaded; several are chained.",
            inputs=[
                io.String.Input(
                    "lora",
                    default="",
                    tooltip="A file of models/loras, a path, or a Hugging Face id, of Stable Diffusion 1.x.",
                ),
                io.Float.Input("weight", default=1.0, min=-10.0, max=10.0, step=0.05),
                LORAS.Input("loras", optional=True),
            ],
            outputs=[LORAS.Output(display_name="loras")],
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
        frames = {"min": 1, "max": 100_000}
        return io.Schema(
            node_id="FollowYourPoseSkeleton",
            display_name="Skeleton for Follow Your Pose",
            category=CATEGORY,
            description="Takes frames of a drawn skeleton or of keypoints, and brings them to the size of the model.",
            inputs=[
                MODEL.Input("model"),
                io.MultiType.Input(
                    "source",
                    [io.Image, KEYPOINTS],
                    optional=True,
                    tooltip="Images of limbs on black, or keypoints; nothing: the sample, a dance.",
                ),
                io.Int.Input("num_frames", default=GenerateConfig.num_frames, **frames),
                io.Int.Input(
                    "temporal_offset", default=0, min=0, max=100_000, tooltip="Frames to skip at the beginning."
                ),
                io.Int.Input("stride", default=1, **frames, tooltip="Frames of the source per frame of the video."),
                io.Combo.Input(
                    "skeleton_end", options=list(ENDS), tooltip="Continuation after the source's last frame."
                ),
                io.Combo.Input(
                    "fit", options=["cover", "pad"], tooltip="Another shape: cover cuts its sides off, pad adds black."
                ),
                io.Int.Input(
                    "width", default=0, min=0, max=8192, step=8, tooltip="Pixels; 0: as the model was trained."
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=8192, step=8, tooltip="Pixels; 0: as the model was trained."
                ),
            ],
            outputs=[io.Image.Output(display_name="skeleton")],
        )

    @classmethod
    def execute(cls, model: Model, width: int, height: int, source: Any = None, **chosen: Any) -> io.NodeOutput:
        size = (height or model.side, width or model.side)
        for key, side in zip(("height", "width"), size, strict=True):
            check_multiple(key, side, model.divisor, "pixels")
        config = _config(**model.config, **chosen)
        if source is None:
            return io.NodeOutput(to_images(open_skeleton(config).frames(*size)))
        clip = None if isinstance(source, torch.Tensor) else clip_of("source", source)
        window = (config.temporal_offset, config.stride, config.num_frames, config.skeleton_end)
        indices = frame_indices(len(source if clip is None else clip.frames), *window)
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
        return io.NodeOutput(to_images(frames))


class Generate(io.ComfyNode):
    """A video of a prompt and a skeleton."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        default = GenerateConfig
        return io.Schema(
            node_id="FollowYourPoseGenerate",
            display_name="Generate with Follow Your Pose",
            category=CATEGORY,
            description="Draws a character that moves as the skeleton does; as many frames as the skeleton has.",
            inputs=[
                MODEL.Input("model"),
                io.Image.Input("skeleton", tooltip="From Skeleton for Follow Your Pose."),
                io.String.Input("prompt", multiline=True, default="an astronaut on the moon"),
                io.String.Input("negative_prompt", multiline=True, default=""),
                io.Int.Input("seed", default=0, min=0, max=LARGEST_SEED, control_after_generate=True),
                io.Int.Input("num_inference_steps", default=default.num_inference_steps, min=1, max=MOST_STEPS),
                io.Float.Input("guidance_scale", default=default.guidance_scale, min=0.0, max=100.0, step=0.5),
                io.Combo.Input("scheduler", options=list(get_args(Scheduler)), default=default.scheduler),
                io.Float.Input("pose_scale", default=default.pose_scale, min=0.0, max=10.0, step=0.05),
                io.Combo.Input("pose_guidance", options=list(get_args(PoseGuidance)), default=default.pose_guidance),
                io.Combo.Input("noise", options=list(get_args(Noise)), default=default.noise),
                io.Combo.Input(
                    "long_video",
                    options=list(MODES),
                    default=LongVideo.mode,
                    tooltip="Joints of the windows of a long video.",
                ),
                io.Int.Input(
                    "window", default=WINDOW, min=1, max=1000, tooltip="Frames that the network sees at a time."
                ),
                io.Int.Input("decode_chunk_size", default=default.decode_chunk_size, min=1, max=64),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    def execute(
        cls, model: Model, skeleton: torch.Tensor, prompt: str, long_video: str, window: int, **settings: Any
    ) -> io.NodeOutput:
        frames = to_bytes("skeleton", skeleton)
        plan = {"mode": long_video, "window": min(window, len(frames))}
        config = _config(prompt, **model.config, **settings, num_frames=len(frames), long_video=plan)
        height, width = frames.shape[1:3]
        print_unknown_words(prompt, model.pipe)
        pipe = model.on_device(config, height * width)
        rounds = 1 if config.long_video.together else len(config.long_video.windows(len(frames)))
        bar = ProgressBar(rounds * config.num_inference_steps)

        def progress(_: Any, step: int, timestep: Any, tensors: Any) -> None:
            model_management.throw_exception_if_processing_interrupted()
            bar.update(1)

        parts = stream(
            pipe,
            config,
            prompt,
            lambda numbers: frames[list(numbers)],
            (height, width),
            config.seed,
            StreamState(),
            progress,
        )
        return io.NodeOutput(to_images(np.concatenate(list(parts))))


class FollowYourPose(ComfyExtension):
    """The nodes of this package."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return [LoadModel, AddLora, VideoKeypoints, LoadKeypoints, Retarget, Skeleton, Generate]


def _config(prompt: str = "", **settings: Any) -> GenerateConfig:
    return build_config(GenerateConfig, settings | {"prompt": prompt}, name="settings")
