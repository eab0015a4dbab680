"""`followyourpose generate`: prompts and one skeleton -> a folder of videos (arXiv 2304.01186, inference).

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

import dataclasses
import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from followyourpose.config import ConfigError, GenerateConfig, locate
from followyourpose.data.video_io import write_gif, write_video
from followyourpose.extract_pose import check_pose, extract_pose
from followyourpose.folders import new_folder, slug
from followyourpose.sampling import check_sampling, memory_explained, prepare, sampling_arguments
from followyourpose.skeleton_input import open_skeleton

if TYPE_CHECKING:
    from followyourpose.pipeline import FollowYourPosePipeline

CHOICES = {
    "pose_guidance": ("both", "conditional"),
    "noise": ("independent", "mixed", "shared"),
}
LEAST = {"height": 1, "width": 1, "num_inference_steps": 1, "num_videos_per_prompt": 1, "enlarge": 1, "seed": 0}
VERSIONS = ("followyourpose", "torch", "diffusers", "transformers", "numpy")
SHEET_FRAMES, SHEET_COLUMNS = 16, 8


def generate(config: GenerateConfig) -> Path:
    """Makes `num_videos_per_prompt` videos per prompt and returns the folder that holds them.

    Each video is an .mp4, a .gif, a contact sheet (-sheet.png) and an .mp4 beside its skeleton (-with-skeleton.mp4);
    run.json has every setting and version. Video j of a prompt starts from seed + j, whatever the other prompts are.
    Of a raw video, `pose` beside them has what extract-pose writes of the frames that are used. The folder appears
    when all is done: a run that fails leaves nothing behind.

    Raises:
        ValueError: a setting, the skeleton, the model or the output folder cannot be used. All but what only the
            loaded model can tell is checked before it is loaded.
    """
    prompts = check_settings(config)
    source = open_skeleton(config)
    started = time.time()
    final = _output(config, prompts[0])
    with new_folder(final) as folder:
        if config.pose.source == "raw":
            pose = dataclasses.replace(config.pose, device=config.pose.device or config.device)
            source = source.found(extract_pose(source.path, folder / "pose", pose, source.span))
        pipe = load_pipeline(config)
        size = (pipe.unet.config.sample_size or 64) * pipe.vae_scale_factor
        height, width = config.height or size, config.width or size
        skeleton = source.frames(height, width)
        large_skeleton = source.frames(height * config.enlarge, width * config.enlarge)
        videos = []
        for index, prompt in enumerate(prompts):
            for seed in range(config.seed, config.seed + config.num_videos_per_prompt):
                print(f"{len(videos) + 1}/{len(prompts) * config.num_videos_per_prompt}  {prompt}  (seed {seed})")
                frames = enlarge(sample(pipe, config, prompt, skeleton, seed), config.enlarge)
                name = f"{index:02d}-{slug(prompt)}" + (f"-{seed}" if config.num_videos_per_prompt > 1 else "")
                files = _write(folder, name, frames, large_skeleton, config.fps)
                videos.append({"prompt": prompt, "seed": seed, "files": files})
        record = {
            "settings": dataclasses.asdict(config) | {"height": height, "width": width},
            "skeleton": {"file": str(source.path), "frames": source.indices},
            "videos": videos,
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in VERSIONS},
            "device": str(pipe.device),
            "seconds": round(time.time() - started, 1),
        }
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{final}:")
    poses = ["pose/skeleton.mp4", "pose/overlay.mp4"] if config.pose.source == "raw" else []
    for file in ["run.json", *poses, *(file for video in videos for file in video["files"])]:
        print(f"  {file}")
    return final


def check_settings(config: GenerateConfig) -> list[str]:
    """The prompts as a list, if every setting that can be judged by itself is in order.

    Raises:
        ConfigError: names the setting, what was got and what was expected.
    """
    prompts = [config.prompt] if isinstance(config.prompt, str) else config.prompt
    if not isinstance(prompts, list) or not prompts:
        got = "an empty list" if prompts == [] else f"{type(prompts).__name__} ({prompts!r})"
        raise ConfigError(f"prompt: got {got}, expected a string or a list of strings")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ConfigError(f"prompt[{index}]: got {type(prompt).__name__} ({prompt!r}), expected a string")
    for key, choices in CHOICES.items():
        if getattr(config, key) not in choices:
            raise ConfigError(f"{key}: got {getattr(config, key)!r}, expected one of {', '.join(choices)}")
    for key, least in LEAST.items():
        value = getattr(config, key)
        if value is not None and value < least:
            raise ConfigError(f"{key}: got {value}, expected at least {least}")
    check_pose(config.pose)
    check_sampling(config)
    if not 0 < config.fps <= 100:
        raise ConfigError(f"fps: got {config.fps}, expected more than 0 and at most 100, the most that a gif can say")
    if not np.isfinite(config.guidance_scale):
        raise ConfigError(f"guidance_scale: got {config.guidance_scale}, expected a finite number")
    model = locate(config.model)
    if not model.exists():
        raise ConfigError(f"model: {model}: no such folder; checkpoints/README.md says what to put where")
    if model.is_dir() and not (model / "model_index.json").is_file():
        raise ConfigError(f"model: {model}: has no model_index.json, expected a pipeline's or an image model's folder")
    return prompts


def load_pipeline(config: GenerateConfig) -> "FollowYourPosePipeline":
    """Loads `config.model` to its device in its dtype: a pipeline's folder, or an image model, which is inflated.

    Raises:
        ValueError: the model cannot be used, or the device or the attention is not there.
    """
    import torch  # late, as is the pipeline: what is wrong before here is told without the seconds that this takes

    from followyourpose.pipeline import FollowYourPosePipeline

    try:
        device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device: got {config.device!r}: {str(error).splitlines()[0]}") from error
    path, dtype = locate(config.model), getattr(torch, config.dtype)
    if path.is_dir() and "pose_encoder" in json.loads((path / "model_index.json").read_text()):
        pipe = FollowYourPosePipeline.from_pretrained(path, dtype=dtype)
    else:
        print(f"{path} is an image model: nothing in it knows poses or motion yet, and the skeleton has no effect")
        pipe = FollowYourPosePipeline.from_image_model(path, dtype=dtype)
    prepare(pipe, config, device)
    pipe.unet.set_attention_backend(config.attention)
    return pipe


def sample(
    pipe: "FollowYourPosePipeline", config: GenerateConfig, prompt: str, skeleton: np.ndarray, seed: int
) -> np.ndarray:
    """One video, (f, H, W, 3) uint8 RGB, of a prompt and a skeleton (f, H, W, 3) uint8 RGB of the same size."""
    import torch

    with memory_explained(pipe, config):
        videos = pipe(
            prompt,
            skeleton,
            height=skeleton.shape[1],
            width=skeleton.shape[2],
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            negative_prompt=config.negative_prompt,
            pose_guidance=config.pose_guidance,
            noise=config.noise,
            generator=torch.Generator().manual_seed(seed),  # on the CPU: the same video on every device
            output_type="np",
            **sampling_arguments(config),
        ).videos
    return (videos[0] * 255).round().astype(np.uint8)


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Frames (f, H, W, 3) uint8 -> (f, factor * H, factor * W, 3), by bicubic interpolation."""
    if factor == 1:
        return frames
    return np.stack([cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for f in frames])


def contact_sheet(frames: np.ndarray) -> np.ndarray:
    """At most 16 frames of (f, H, W, 3), evenly spaced and in reading order, on one picture (H', W', 3), 8 in a row."""
    count = min(len(frames), SHEET_FRAMES)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    columns = min(count, SHEET_COLUMNS)
    chosen = np.pad(chosen, ((0, -count % columns), (2, 2), (2, 2), (0, 0)), constant_values=255)
    _, height, width, _ = chosen.shape
    rows = chosen.reshape(-1, columns, height, width, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, 3)


def _output(config: GenerateConfig, prompt: str) -> Path:
    name = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{slug(prompt)}"
    return Path("outputs") / name if config.output is None else Path(config.output).expanduser()


def _write(folder: Path, name: str, frames: np.ndarray, skeleton: np.ndarray, fps: float) -> list[str]:
    """Writes a video in all its forms; gives the names of the files."""
    files = [f"{name}.mp4", f"{name}.gif", f"{name}-sheet.png", f"{name}-with-skeleton.mp4"]
    write_video(folder / files[0], frames, fps)
    write_gif(folder / files[1], frames, fps)
    Image.fromarray(contact_sheet(frames)).save(folder / files[2])
    write_video(folder / files[3], np.concatenate([skeleton, frames], axis=2), fps)
    return files


def _version(package: str) -> str | None:
    """None: not installed as a package, as in a bare checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
