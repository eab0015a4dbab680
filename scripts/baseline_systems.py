"""Videos drawn by other systems, most on the same frozen base model, through their implementations in diffusers.

All that denoise take the same number of DDIM steps at the same guidance. Videos of one call have as many frames each.

    v videos   f frames   H W pixels   c channels   h w latent size   l tokens   g halves of guidance, of each video
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, DDIMInverseScheduler, MotionAdapter, T2IAdapter
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from torch import Tensor

from followyourpose import FollowYourPosePipeline
from followyourpose.common.device import torch_device
from followyourpose.common.files import atomic_write
from followyourpose.common.pictures import to_uint8
from followyourpose.config import TrainConfig, build_config
from followyourpose.config.sampling import Noise, PoseGuidance
from followyourpose.pipeline.image_model import load_image_model
from followyourpose.pipeline.inputs import initial_noise
from followyourpose.puppets.benchmark import write_images
from followyourpose.training.components import load_component
from followyourpose.training.loop import train
from scripts.baseline_dance import dance
from scripts.baseline_people import Person
from scripts.baseline_pipelines import (
    Parts,
    adapter_pipeline,
    animatediff_pipeline,
    attend_to_first_frame,
    controlnet_pipeline,
    to_images,
)
from scripts.baseline_warp import warp

STEPS, GUIDANCE = 20, 2.0
MASA_STEP = 4  # number of steps before MasaCtrl's mutual attention, in the decoder (section 4.1 of its paper)
TUNING = {"steps": 40, "learning_rate": 1e-3}  # of Tune-A-Video, for each video


@dataclass(frozen=True)
class Sampling:
    """Settings of a system that starts from noise, by the names of ours."""

    noise: Noise = "shared"  # initial noise of the frames: independent, mixed or shared
    pose_guidance: PoseGuidance = "both"  # halves of guidance that see the skeleton: both, or conditional only


@dataclass(frozen=True)
class Task:
    """One video to draw.

    Attributes:
        prompt: its prompt; skeleton: its poses, (f, H, W, 3) uint8; seed: of its noise.
        source: video of another character in these poses, (f, H, W, 3) uint8, and its caption: for systems that edit.
        person: character and place, and keypoints (f, 17, 3) of its poses: for systems that copy a person.
        sampling: the same in all tasks of a call.
    """

    prompt: str
    skeleton: np.ndarray
    seed: int
    source: tuple[np.ndarray, str]
    person: Person
    keypoints: np.ndarray
    sampling: Sampling = Sampling()


Draw = Callable[[Sequence[Task]], list[np.ndarray]]  # -> for each task (f, H, W, 3) uint8


def controlnet(base: Path, weights: Path) -> Draw:
    """ControlNet, frame by frame."""
    return partial(_frames, _controlnet_pipeline(base, weights))


def t2i_adapter(base: Path, weights: Path) -> Draw:
    """T2I-Adapter, frame by frame."""
    return partial(_frames, _adapter_pipeline(base, weights))


def text2video_zero(base: Path, weights: Path) -> Draw:
    """Text2Video-Zero with ControlNet."""
    pipe = _controlnet_pipeline(base, weights)

    def draw(tasks: Sequence[Task]) -> list[np.ndarray]:
        attend_to_first_frame(pipe, len(tasks))
        return _frames(pipe, tasks)

    return draw


def masactrl(base: Path, weights: Path) -> Draw:
    """MasaCtrl with T2I-Adapter: mutual self-attention to the first frame (Cao et al. 2023, arXiv 2304.08465)."""
    pipe = _adapter_pipeline(base, weights)
    decoder = [name for name in pipe.unet.attn_processors if name.startswith("up_blocks") and ".attn1." in name]
    plain = {name: AttnProcessor2_0() for name in pipe.unet.attn_processors}

    def draw(tasks: Sequence[Task]) -> list[np.ndarray]:
        frames = len(tasks[0].skeleton)
        pipe.unet.set_attn_processor({**plain, **{name: MutualSelfAttention(frames) for name in decoder}})
        return _frames(pipe, tasks)

    return draw


def animatediff(base: Path, weights: Path) -> Draw:
    """AnimateDiff with ControlNet."""
    motion, controlnet = _load(MotionAdapter, weights / "animatediff"), _load(ControlNetModel, weights / "controlnet")
    pipe = _ready(animatediff_pipeline(_parts(base), motion, controlnet))

    def draw(task: Task) -> np.ndarray:
        out = _sampled(
            pipe, task, task.prompt, num_frames=len(task.skeleton), conditioning_frames=to_images(task.skeleton),
            latents=_noise(pipe, task),
        )  # fmt: skip
        return to_uint8(out.frames[0])

    return lambda tasks: [draw(task) for task in tasks]


def tune_a_video(base: Path, weights: Path) -> Draw:
    """Tune-A-Video: tuned on the source, starts from its inverted latents (Wu et al. 2022, arXiv 2212.11565).

    Its network is ours without the pose encoder; the source is its only access to a pose.
    """

    def draw(task: Task) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            run = train(_tuning(base, Path(folder), task))
            pipe = FollowYourPosePipeline.from_image_model(base)
            pipe.register_modules(unet=load_component(run, "unet").eval())
        latents = _inverted(_ready(pipe), *task.source)
        out = pipe(task.prompt, None, num_frames=len(task.skeleton), latents=latents, **_settings(task))
        return to_uint8(out.videos[0])

    return lambda tasks: [draw(task) for task in tasks]


def first_order_motion(base: Path, weights: Path) -> Draw:
    """First Order Motion Model, from one picture of the person in that place."""
    return lambda tasks: [warp(weights, task.person, task.keypoints, task.skeleton.shape[1]) for task in tasks]


def everybody_dance_now(base: Path, weights: Path) -> Draw:
    """Everybody Dance Now, trained on footage of the person in that place."""
    return lambda tasks: [dance(weights, task.person, task.skeleton) for task in tasks]


SYSTEMS: dict[str, Callable[[Path, Path], Draw]] = {
    "controlnet": controlnet,
    "t2i-adapter": t2i_adapter,
    "text2video-zero": text2video_zero,
    "masactrl": masactrl,
    "animatediff": animatediff,
    "tune-a-video": tune_a_video,
    "first-order-motion": first_order_motion,
    "everybody-dance-now": everybody_dance_now,
}
WITHOUT_NOISE = ("tune-a-video", "first-order-motion", "everybody-dance-now")  # of `Sampling`'s


# ---- parts -----------------------------------------------------------------------------------------------------------


class MutualSelfAttention(AttnProcessor2_0):
    """Attention of every frame to the first frame's keys and values after MASA_STEP steps: (g f) l c -> the same."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames, self.steps = frames, 0

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.steps += 1
        if self.steps <= MASA_STEP:
            return super().__call__(attn, hidden_states, *args, **kwargs)
        first = rearrange(hidden_states, "(g f) l c -> g f l c", f=self.frames)[:, 0]
        first = repeat(first, "g l c -> (g f) l c", f=self.frames)
        return super().__call__(attn, hidden_states, encoder_hidden_states=first)


def _parts(base: Path) -> Parts:
    return load_image_model(base, torch.float32)


def _controlnet_pipeline(base: Path, weights: Path) -> Any:
    return _ready(controlnet_pipeline(_parts(base), _load(ControlNetModel, weights / "controlnet")))


def _adapter_pipeline(base: Path, weights: Path) -> Any:
    return _ready(adapter_pipeline(_parts(base), _load(T2IAdapter, weights / "t2i-adapter")))


def _load(kind: type[ModelMixin], folder: Path) -> ModelMixin:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected the output of `scripts.baselines export`")
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def _ready(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(torch_device(None))


def _frames(pipe: Any, tasks: Sequence[Task]) -> list[np.ndarray]:
    """Videos of an image pipeline, every frame an image of its own."""
    prompts = [task.prompt for task in tasks for _ in task.skeleton]
    pictures = [picture for task in tasks for picture in to_images(task.skeleton)]
    latents = rearrange([_noise(pipe, task) for task in tasks], "v 1 c f h w -> (v f) c h w")
    images = _sampled(pipe, tasks[0], prompts, image=pictures, latents=latents).images
    return list(rearrange(to_uint8(images), "(v f) H W c -> v f H W c", v=len(tasks)))


def _sampled(pipe: Any, task: Task, *prompts: Any, **inputs: Any) -> Any:
    """Return the output of a pipeline at the settings of a task."""
    with ExitStack() as stack:
        if task.sampling.pose_guidance == "conditional":
            stack.enter_context(pipe.unet.register_forward_pre_hook(_pose_in_conditional_half, with_kwargs=True))
        return pipe(*prompts, **inputs, **_settings(task))


def _pose_in_conditional_half(unet: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Zero the pose's residuals in the first half of the UNet's batch, the unconditional one."""

    def halved(given: Any) -> Any:
        if not isinstance(given, Tensor):
            return [halved(each) for each in given]
        half = len(given) // 2
        return torch.cat([torch.zeros_like(given[:half]), given[half:]])

    posed = {key: given for key, given in kwargs.items() if "additional_residual" in key and given is not None}
    return args, kwargs | {key: halved(given) for key, given in posed.items()}


def _noise(pipe: Any, task: Task) -> Tensor:
    """Initial noise of a video, (1, c, f, h, w)."""
    height, width = (side // pipe.vae_scale_factor for side in task.skeleton.shape[1:3])
    shape = (1, pipe.vae.config.latent_channels, len(task.skeleton), height, width)
    return initial_noise(shape, task.sampling.noise, [torch.Generator().manual_seed(task.seed)], torch.device("cpu"))


def _settings(task: Task) -> dict[str, Any]:
    size = dict(zip(("height", "width"), task.skeleton.shape[1:3], strict=True))
    return {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "np", **size}


# ---- Tune-A-Video ----------------------------------------------------------------------------------------------------


def _tuning(base: Path, folder: Path, task: Task) -> TrainConfig:
    frames, caption = task.source
    write_images(folder / "source", frames)
    atomic_write(folder / "manifest.jsonl", json.dumps({"video": "source", "caption": caption}) + "\n")
    height, width = frames.shape[1:3]
    content = {
        "output": str(folder / "run"), "init": str(base), "steps": TUNING["steps"], "trackers": [],
        "trainable": [r"^unet\..*attn1\.to_q", r"^unet\..*attn2\.to_q", r"^unet\..*attn_temp"],
        "data": {"path": str(folder), "kind": "clips", "num_frames": len(frames), "height": height, "width": width},
        "optim": {"learning_rate": TUNING["learning_rate"], "batch_size": 1},
    }  # fmt: skip
    return build_config(TrainConfig, content)


@torch.no_grad()
def _inverted(pipe: FollowYourPosePipeline, frames: np.ndarray, caption: str) -> Tensor:
    """The noise (1, c, f, h, w) from which DDIM makes these frames (Song et al. 2020, arXiv 2010.02502)."""
    scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    pixels = torch.from_numpy(frames).to(pipe.device).movedim(-1, 1).float() / 127.5 - 1
    latents = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
    latents = rearrange(latents, "f c h w -> 1 c f h w")
    text = pipe.encode_prompt(caption)[0]
    for timestep in scheduler.timesteps:
        latents = scheduler.step(pipe.unet(latents, timestep, text), timestep, latents).prev_sample
    return latents
