"""Videos that the model draws of samples, of the baseline without a skeleton, and of the model before stage 2.

Letters: v videos, f frames, b clips per call, c latent channels, h w latent size, H W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from tqdm import tqdm

from followyourpose.common.device import torch_device, torch_dtype
from followyourpose.common.pictures import to_uint8
from followyourpose.config import EvaluateConfig, find_model
from followyourpose.evaluation import metrics
from followyourpose.evaluation.measure import flicker
from followyourpose.evaluation.samples import Sample
from followyourpose.generation.sampling import prepare, sampling_arguments
from followyourpose.generation.sharing import KeptArrays
from followyourpose.pipeline.inputs import initial_noise
from followyourpose.pipeline.pipeline import FollowYourPosePipeline

NOISES = ("independent", "shared")  # initial noise of the frames for which flicker before and after stage 2 is reported


def load_model(config: EvaluateConfig) -> FollowYourPosePipeline:
    """Load the model onto the device; a ValueError where it cannot be read, or a setting cannot run."""
    dtype = torch_dtype(config.dtype, torch_device(config.device))
    pipe = FollowYourPosePipeline.from_pretrained(find_model(config.model, "model"), dtype=dtype)
    return _ready(pipe, config)


def load_before(config: EvaluateConfig, pipe: FollowYourPosePipeline) -> FollowYourPosePipeline:
    """Load the model before stage 2: the image UNet with the pose encoder, which stage 2 leaves untouched."""
    before = FollowYourPosePipeline.from_image_model(
        find_model(config.image_model, "image_model"), dtype=pipe.unet.dtype
    )
    before.register_modules(pose_encoder=pipe.pose_encoder)
    return _ready(before, config)


def _ready(pipe: FollowYourPosePipeline, config: EvaluateConfig) -> FollowYourPosePipeline:
    pipe.set_progress_bar_config(disable=True)
    prepare(pipe, config, torch_device(config.device))
    return pipe


def side_of(pipe: FollowYourPosePipeline) -> int:
    """Return the height and width in pixels that a model was trained at."""
    return pipe.unet.config.sample_size * pipe.vae_scale_factor


def noise_of(pipe: FollowYourPosePipeline, config: EvaluateConfig, noise: str, seeds: Sequence[int]) -> torch.Tensor:
    """Return initial latents (b, c, f, h, w) of the videos with these seeds, the same in every batch."""
    side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (len(generators), channels, config.num_frames, side, side)
    return initial_noise(shape, noise, generators, torch.device("cpu"))


def generate(
    pipe: FollowYourPosePipeline,
    samples: Sequence[Sample],
    config: EvaluateConfig,
    noise: str,
    posed: bool = True,
    as_images: bool = False,
    kept: KeptArrays | None = None,
) -> np.ndarray:
    """Return the model's videos of the samples' prompts, (v, f, H, W, 3) uint8.

    Args:
        posed: whether the skeleton is given.
        as_images: sample each frame by itself, as a video of one frame, from its noise in the video.
        kept: shares the batches among processes, and keeps them; None: they are drawn here.
    """

    def draw(batch: Sequence[Sample]) -> np.ndarray:
        prompts, seeds = [sample.prompt for sample in batch], [sample.seed for sample in batch]
        latents = noise_of(pipe, config, noise, seeds)
        skeleton = np.stack([sample.skeleton for sample in batch])
        if as_images:
            prompts = [prompt for prompt in prompts for _ in range(config.num_frames)]
            latents = rearrange(latents, "b c f h w -> (b f) c 1 h w")
            skeleton = rearrange(skeleton, "b f H W c -> (b f) 1 H W c")
        out = pipe(
            prompts,
            skeleton if posed else None,
            num_frames=latents.shape[2],
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            pose_guidance=config.pose_guidance,
            noise=noise,
            latents=latents,
            generator=None if as_images else [torch.Generator().manual_seed(seed) for seed in seeds],
            long_video=None if as_images else config.long_video,
            output_type="np",
            **sampling_arguments(config),
        )
        bar.update(len(batch))
        return rearrange(to_uint8(np.asarray(out.videos)), "(b n) f H W c -> b (n f) H W c", b=len(batch))

    batches = [samples[start : start + config.batch_size] for start in range(0, len(samples), config.batch_size)]
    kind, pose = "images" if as_images else config.long_video.mode, "posed" if posed else "unposed"
    with tqdm(total=len(samples), unit="video", desc=f"generate {kind}, {noise} noise, {pose}") as bar:
        if kept is None:
            return np.concatenate([draw(batch) for batch in batches])
        return np.concatenate(kept(f"{kind}-{noise}-{pose}-{len(samples)}", draw, batches))


def drawn_sets(
    pipe: FollowYourPosePipeline, samples: Sequence[Sample], config: EvaluateConfig, kept: KeptArrays | None = None
) -> dict[str, np.ndarray]:
    """Draw sets of videos, (v, f, H, W, 3) uint8 each: "", the model's, and "no_pose", unposed from the same noise."""
    sets = {"": True, "no_pose": False} if config.without_skeleton else {"": True}
    return {name: generate(pipe, samples, config, config.noise, posed, kept=kept) for name, posed in sets.items()}


def flicker_of_stage_2(
    pipe: FollowYourPosePipeline,
    before: FollowYourPosePipeline,
    samples: Sequence[Sample],
    config: EvaluateConfig,
    videos: np.ndarray,
    kept: KeptArrays | None = None,
) -> dict[str, Any]:
    """Return the flicker before and after stage 2 by the kind of noise, with intervals.

    Args:
        pipe: the model; before: the model before stage 2, called with single frames.
        videos: the model's videos of the samples from the noise of the settings, (v, f, H, W, 3) uint8.
    """
    after, images = {config.noise: videos}, {}
    for noise in NOISES:
        images[noise] = generate(before, samples, config, noise, as_images=True, kept=kept)
        if noise not in after:
            after[noise] = generate(pipe, samples, config, noise, kept=kept)
    results = {}
    for name, sets in (("flicker_before", images), ("flicker_after", after)):
        values = {noise: list(map(flicker, samples, sets[noise])) for noise in NOISES}
        results[name] = {noise: float(np.mean(each)) for noise, each in values.items()}
        results[f"{name}_ci95"] = {noise: metrics.bootstrap_interval(each) for noise, each in values.items()}
    return results
