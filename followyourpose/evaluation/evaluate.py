"""The evaluation protocol: held-out motions and held-out character-and-place pairs -> frames -> metrics.json.

Four sets of frames of the same scenes, all judged by the same detector and the same CLIP: what the model draws, the
real frames (the most that can be reached), what it draws without a skeleton (what chance reaches), and, for flicker,
what it draws before and after stage 2 from the same initial noise.

Letters: v videos, f frames, b clips per call, c latent channels, h w latent size, H W pixels.
"""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from tqdm import tqdm

from followyourpose.config import EvaluateConfig, check_least, locate
from followyourpose.device import torch_device
from followyourpose.evaluation import metrics
from followyourpose.evaluation.features import ClipFeatures
from followyourpose.long_video import LongVideo
from followyourpose.pipeline import FollowYourPosePipeline
from followyourpose.pipeline_inputs import initial_noise
from followyourpose.pose.detector import PuppetDetector
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import Scene, caption, render_scene, sample_scene
from followyourpose.sampling import check_sampling, prepare, sampling_arguments

NOISES = ("independent", "shared")  # between frames; the effect of stage 2 on flicker is told for each
DEFINITIONS = {
    "cs": "cosine of a frame's and its caption's CLIP embedding, x100, mean over frames",
    "pa": "average precision (OKS .50:.05:.95) of the detected skeletons against the driving ones",
    "pck@0.1": "share of joints detected within 0.1 body heights of the driving ones",
    "fc": "cosine of consecutive frames' CLIP embeddings, x100",
    "flicker": "mean change of background pixels from a frame to the next, of 255",
    "character_accuracy": "share of videos whose nearest caption, of all of one person, names the right character",
    "background_accuracy": "the same for the background",
}


@dataclass(frozen=True)
class Sample:
    """One held-out video: frames and skeleton (f, H, W, 3) uint8, keypoints (f, 17, 3) in pixels."""

    scene: Scene
    frames: np.ndarray
    keypoints: np.ndarray
    skeleton: np.ndarray


@dataclass(frozen=True)
class Measured:
    """What was measured on each of v videos; all arrays (v,)."""

    cs: np.ndarray
    pa: list[metrics.Matches]
    pck: np.ndarray
    fc: np.ndarray
    flicker: np.ndarray
    character: np.ndarray
    background: np.ndarray

    def summary(self) -> dict[str, float]:
        """One number per metric, by the names in DEFINITIONS."""
        means = {name: float(np.mean(values)) for name, values in self._columns().items()}
        return {**means, "pa": metrics.average_precision(self.pa)}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval over videos of each number."""
        columns = {f"{name}_ci95": metrics.bootstrap_interval(values) for name, values in self._columns().items()}
        return {**columns, "pa_ci95": metrics.bootstrap_interval(self.pa, metrics.average_precision)}

    def _columns(self) -> dict[str, np.ndarray]:
        return {
            "cs": self.cs,
            "pck@0.1": self.pck,
            "fc": self.fc,
            "flicker": self.flicker,
            "character_accuracy": self.character,
            "background_accuracy": self.background,
        }


def evaluate(config: EvaluateConfig) -> Path:
    """Generates, measures, and writes metrics.json and samples.png (rows: skeleton, generated, real) into a folder.

    The folder is `config.output`, or a new one under outputs/; it is returned.

    Raises:
        ValueError: the folder has results already, a number in the configuration is too low, or a model cannot be read.
    """
    folder = check(config)
    pipe, detector, clip = load(config)
    image_pipe = FollowYourPosePipeline.from_image_model(locate(config.image_model), dtype=pipe.unet.dtype)
    # Stage 2 leaves the pose encoder as stage 1 made it: with the image UNet it is the model before stage 2.
    image_pipe.register_modules(pose_encoder=pipe.pose_encoder)
    image_pipe.set_progress_bar_config(disable=True)
    prepare(image_pipe, config, pipe.device)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    samples = sample_videos(config, side, side)
    results, generated = compare(config, samples, pipe, image_pipe, detector, clip)
    write_report(folder, config, results, samples, generated)
    print(format_table(results))
    return folder


def check(config: EvaluateConfig) -> Path:
    """The folder that the results go to, if it has none and the settings can be used.

    Raises:
        ValueError: not so; the message names the folder or the key.
    """
    folder = Path(config.output or f"outputs/evaluate-{time.strftime('%Y%m%d-%H%M%S')}")
    if (folder / "metrics.json").exists():
        raise ValueError(f"{folder}: holds a metrics.json; give another `output`, results are never overwritten")
    check_least(config, {"num_videos": 1, "flicker_videos": 1, "num_frames": 2, "batch_size": 1})
    check_sampling(config)
    for mode in [config.long_video.mode, *config.modes]:
        LongVideo(**vars(config.long_video) | {"mode": mode}).windows(config.num_frames)
    if not (locate(config.detector) / "config.json").is_file():
        raise ValueError(f"detector: {config.detector} has no config.json, expected the folder of a PuppetDetector")
    return folder


def load(config: EvaluateConfig) -> tuple[FollowYourPosePipeline, PuppetDetector, ClipFeatures]:
    """The model and its two judges, on the device.

    Raises:
        ValueError: one of them cannot be read, or there is no such device.
    """
    device = torch.device(torch_device(config.device))
    pipe = FollowYourPosePipeline.from_pretrained(locate(config.model), dtype=getattr(torch, config.dtype))
    pipe.set_progress_bar_config(disable=True)
    prepare(pipe, config, device)
    detector = PuppetDetector.from_pretrained(locate(config.detector)).eval().to(device)
    return pipe, detector, ClipFeatures(locate(config.clip), device)


# ---- scenes ---------------------------------------------------------------------------------------------------------


def sample_videos(config: EvaluateConfig, height: int, width: int) -> list[Sample]:
    """Draws `num_videos` held-out scenes of one person from the seed, and renders them at height x width pixels."""
    rng, samples = np.random.default_rng(config.seed), []
    for _ in range(config.num_videos):
        scene = sample_scene(rng, split="held-out", two=0)
        frames, people = render_scene(scene, config.num_frames, height, width)
        skeleton = np.stack([render_skeleton(each, height, width) for each in people])
        samples.append(Sample(scene, frames, people[:, 0], skeleton))
    return samples


# ---- generation -----------------------------------------------------------------------------------------------------


def noise_of(pipe: FollowYourPosePipeline, config: EvaluateConfig, noise: str, videos: Sequence[int]) -> torch.Tensor:
    """Initial latents (b, c, f, h, w) of the videos with these numbers; each has its own seed, whatever the batch."""
    side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    generators = [torch.Generator().manual_seed(config.seed + video) for video in videos]
    shape = (len(generators), channels, config.num_frames, side, side)
    return initial_noise(shape, noise, generators, torch.device("cpu"))


def generate(
    pipe: FollowYourPosePipeline,
    samples: Sequence[Sample],
    config: EvaluateConfig,
    noise: str,
    posed: bool = True,
    as_images: bool = False,
    advance: Callable[[int], Any] = lambda videos: None,
) -> np.ndarray:
    """The model's videos of the samples' captions, (v, f, H, W, 3) uint8.

    Args:
        posed: whether the skeleton is given.
        as_images: each frame is sampled by itself, as a video of one frame, from the noise it would have in the video.
        advance: is told how many videos are done, for a progress bar.
    """
    videos = []
    for start in range(0, len(samples), config.batch_size):
        batch = samples[start : start + config.batch_size]
        prompts = [sample.scene.caption for sample in batch]
        numbers = range(start, start + len(batch))
        latents = noise_of(pipe, config, noise, numbers)
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
            generator=None if as_images else [torch.Generator().manual_seed(config.seed + i) for i in numbers],
            long_video=None if as_images else LongVideo(**vars(config.long_video)),
            output_type="np",
            **sampling_arguments(config),
        )
        pixels = np.round(np.asarray(out.videos) * 255).astype(np.uint8)
        videos.append(rearrange(pixels, "(b n) f H W c -> b (n f) H W c", b=len(batch)))
        advance(len(batch))
    return np.concatenate(videos)


# ---- measurement ----------------------------------------------------------------------------------------------------


def measure(videos: np.ndarray, samples: Sequence[Sample], detector: PuppetDetector, clip: ClipFeatures) -> Measured:
    """Compares videos (v, f, H, W, 3) uint8 with the poses and captions that they are to show."""
    count, frames = videos.shape[:2]
    target = np.stack([sample.keypoints for sample in samples])
    flat = rearrange(videos, "v f H W c -> (v f) H W c")
    found = rearrange(detector.detect(flat), "(v f) j c -> v f j c", v=count)
    images = rearrange(clip.images(flat), "(v f) d -> v f d", v=count)
    pairs = [(character, background) for character in CHARACTERS for background in BACKGROUNDS]
    texts = clip.captions([caption(*pair) for pair in pairs])
    truth = [(sample.scene.character, sample.scene.background) for sample in samples]
    named = [pairs[metrics.top1(each, texts)] for each in images]
    return Measured(
        cs=np.array([metrics.clip_score(i, texts[pairs.index(t)]) for i, t in zip(images, truth, strict=True)]),
        pa=[metrics.match_people(p[:, None], t[:, None]) for p, t in zip(found, target, strict=True)],
        pck=metrics.pck_per_video(found, target, 0.1),
        fc=np.array([metrics.frame_consistency(each) for each in images]),
        flicker=measure_flicker(videos, samples),
        character=np.array([n[0] == t[0] for n, t in zip(named, truth, strict=True)]),
        background=np.array([n[1] == t[1] for n, t in zip(named, truth, strict=True)]),
    )


def measure_flicker(videos: np.ndarray, samples: Sequence[Sample]) -> np.ndarray:
    """Background flicker (v,) of videos (v, f, H, W, 3) uint8; the samples' own keypoints mask the body."""
    flicker = []
    for video, sample in zip(videos, samples, strict=True):
        everything = sample.keypoints.copy()
        everything[..., 2] = 1  # the world knows where hidden joints are, and the body is there too
        body = np.stack([metrics.body_mask(pose[None], *video.shape[1:3]) for pose in everything])
        flicker.append(metrics.flicker(video, body))
    return np.array(flicker)


def compare(
    config: EvaluateConfig,
    samples: Sequence[Sample],
    pipe: FollowYourPosePipeline,
    image_pipe: FollowYourPosePipeline,
    detector: PuppetDetector,
    clip: ClipFeatures,
) -> tuple[dict[str, Any], np.ndarray]:
    """Generates and measures all sets of frames: the content of metrics.json, and the generated videos.

    Args:
        pipe: the model; image_pipe: the same before stage 2, called with single frames.
    """
    few = samples[: config.flicker_videos]
    missing = [noise for noise in NOISES if noise != config.noise]
    total = 2 * len(samples) + (len(NOISES) + len(missing)) * len(few)
    with tqdm(total=total, unit="video", desc="generate") as bar:
        videos = generate(pipe, samples, config, config.noise, advance=bar.update)
        unposed = generate(pipe, samples, config, config.noise, posed=False, advance=bar.update)
        after = {noise: generate(pipe, few, config, noise, advance=bar.update) for noise in missing}
        after[config.noise] = videos[: len(few)]
        before = {
            noise: generate(image_pipe, few, config, noise, as_images=True, advance=bar.update) for noise in NOISES
        }

    drawn = measure(videos, samples, detector, clip)
    real = measure(np.stack([sample.frames for sample in samples]), samples, detector, clip)
    chance = measure(unposed, samples, detector, clip)
    results = {**drawn.summary(), "n": len(samples), **drawn.intervals()}
    results |= {f"{name}_real".replace("@0.1", ""): value for name, value in real.summary().items()}
    results |= {f"{name}_no_pose".replace("@0.1", ""): value for name, value in chance.summary().items()}
    for name, measured in (("pck_ratio", drawn), ("pck_no_pose_ratio", chance)):
        pairs = list(zip(measured.pck, real.pck, strict=True))
        results[name] = ratio(pairs)
        results[f"{name}_ci95"] = metrics.bootstrap_interval(pairs, ratio)
    for name, sets in (("flicker_before", before), ("flicker_after", after)):
        values = {noise: measure_flicker(sets[noise], few) for noise in NOISES}
        results[name] = {noise: float(each.mean()) for noise, each in values.items()}
        results[f"{name}_ci95"] = {noise: metrics.bootstrap_interval(each) for noise, each in values.items()}
    return results, videos


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The sum of the first numbers over the sum of the second ones."""
    above, below = np.sum(pairs, axis=0)
    return float(above / max(below, 1e-12))


# ---- report ---------------------------------------------------------------------------------------------------------


def write_report(
    folder: Path,
    config: EvaluateConfig,
    results: dict[str, Any],
    samples: Sequence[Sample],
    videos: np.ndarray,
    definitions: dict[str, str] = DEFINITIONS,
) -> None:
    """Writes metrics.json, with definitions, settings and versions, and samples.png of the first four videos."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    content = {
        **results,
        "definitions": definitions,
        "settings": asdict(config),
        "versions": {"python": platform.python_version(), **versions},
    }
    sheet = contact_sheet(samples[:4], videos[:4])
    cv2.imwrite(str(folder / "samples.png"), sheet[..., ::-1])
    (folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")


def contact_sheet(samples: Sequence[Sample], videos: np.ndarray) -> np.ndarray:
    """Per video three rows of f frames, skeleton, generated and real: (3 v H, f W, 3) uint8."""
    rows = [
        np.concatenate(clip, axis=1)
        for sample, video in zip(samples, videos, strict=True)
        for clip in (sample.skeleton, video, sample.frames)
    ]
    return np.concatenate(rows)


def format_table(results: dict[str, Any]) -> str:
    """The results as text: a line per metric with its interval, the real frames', that without pose, its definition."""
    lines = [f"{'':20}{'model':>8}  {'95 % interval':17}{'real':>8}{'no pose':>9}   over {results['n']} videos"]
    for name, definition in DEFINITIONS.items():
        low, high = results[f"{name}_ci95"]
        plain = name.replace("@0.1", "")
        lines.append(
            f"{name:20}{results[name]:8.3f}  {f'{low:.3f} to {high:.3f}':17}"
            f"{results[f'{plain}_real']:8.3f}{results[f'{plain}_no_pose']:9.3f}   {definition}"
        )
    lines.append(
        f"PCK as a share of that of real frames: {results['pck_ratio']:.3f}; "
        f"without a skeleton: {results['pck_no_pose_ratio']:.3f}"
    )
    for noise in NOISES:
        before, after = results["flicker_before"][noise], results["flicker_after"][noise]
        lines.append(f"flicker with {noise} noise: {before:.2f} before stage 2, {after:.2f} after")
    return "\n".join(lines)
