"""`followyourpose generate`: prompts x skeletons x seeds -> a folder of videos (arXiv 2304.01186, inference).

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

import dataclasses
import itertools
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from followyourpose.common.device import torch_device
from followyourpose.common.files import slug
from followyourpose.config import ConfigError, GenerateConfig, locate
from followyourpose.data.video_io import gif_writer, growing_video, video_writer
from followyourpose.generation.extract_pose import extract_pose
from followyourpose.generation.loras import apply_loras, open_loras
from followyourpose.generation.outputs import INDEX, index_page
from followyourpose.generation.sampling import memory_explained, prepare, sampling_arguments
from followyourpose.generation.skeletons import SkeletonInput, open_skeletons
from followyourpose.generation.unfinished import UnfinishedVideo, unfinished_run
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints

if TYPE_CHECKING:
    from followyourpose.pipeline.call import Callback
    from followyourpose.pipeline.denoise import StreamState
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

VERSIONS = ("followyourpose", "torch", "diffusers", "transformers", "numpy")
FORMS = (".mp4", ".gif", "-sheet.png", "-with-skeleton.mp4")  # of a video, what its name is followed by
SHEET_FRAMES, SHEET_COLUMNS = 16, 8
_CHUNK = 16  # finished frames in memory at a time


@dataclass(frozen=True)
class Shot:
    """One video to draw: what it shows, and from which noise.

    Attributes:
        skeleton: numbers of frames -> these, (f, H, W, 3) uint8 RGB.
        size: height and width in pixels.
        on_step: see `callback_on_step_end` of the pipeline's call.
    """

    prompt: str
    skeleton: Callable[[Sequence[int]], np.ndarray]
    size: tuple[int, int]
    seed: int
    on_step: "Callback | None" = None


def generate(
    config: GenerateConfig, pipe: "FollowYourPosePipeline | None" = None, on_step: "Callback | None" = None
) -> Path:
    """Makes `num_videos_per_prompt` videos of each prompt with each skeleton and returns the folder that holds them.

    Each video is an .mp4, a .gif, a contact sheet (-sheet.png) and an .mp4 beside its skeleton (-with-skeleton.mp4);
    index.html shows all of them, and run.json has every setting and version. Video j of a prompt starts from seed + j,
    whatever the other prompts and skeletons are. Of raw videos, `pose` beside them has what extract-pose writes of the
    frames that are used.

    Frames are written as they are finished, and in memory are those of one window. A run that is interrupted, by a
    signal or a kill, keeps them in `unfinished`, and goes on when it is called with the same settings and this folder;
    then its videos are those of a run that was not interrupted. One that fails before a frame is finished leaves
    nothing behind.

    Args:
        pipe: what `load_pipeline` gave for these settings; None: it is loaded here.
        on_step: see `callback_on_step_end` of the pipeline's call; what it raises ends the run.

    Raises:
        ValueError: a setting, a skeleton, a LoRA, the model or the output folder cannot be used. All but what only the
            loaded model can tell is checked before it is loaded.
    """
    prompts = check_settings(config)
    sources = open_skeletons(config)
    started = time.time()
    folder = _output(config, prompts[0])
    settings = dataclasses.asdict(config)
    with unfinished_run(folder, {key: value for key, value in settings.items() if key != "output"}) as work:
        print(f"{folder}: if this is interrupted, the same command with output={folder} goes on")
        if config.pose.source == "raw":
            sources = _find_poses(config, sources, work / "pose")
        pipe = load_pipeline(config) if pipe is None else pipe
        size = (pipe.unet.config.sample_size or 64) * pipe.vae_scale_factor
        height, width = config.height or size, config.width or size
        seeds = range(config.seed, config.seed + config.num_videos_per_prompt)
        videos = []
        for number, source in enumerate(sources):
            skeleton = partial(source.frames, height, width)
            large_skeleton = partial(source.frames, height * config.enlarge, width * config.enlarge)
            for (index, prompt), seed in itertools.product(enumerate(prompts), seeds):
                count = f"{len(videos) + 1}/{len(sources) * len(prompts) * len(seeds)}"
                print(f"{count}  {prompt}  ({source.name}, seed {seed})")
                name = f"{index:02d}-{slug(prompt)}"
                name += f"-{number:02d}-{slug(source.name)}" if len(sources) > 1 else ""
                name += f"-{seed}" if len(seeds) > 1 else ""
                files = [name + form for form in FORMS]
                if not all((folder / file).exists() for file in files):
                    video = UnfinishedVideo(work, name)
                    _draw(pipe, config, Shot(prompt, skeleton, (height, width), seed, on_step), video)
                    _write(folder, files, video, large_skeleton, config)
                videos.append({"prompt": prompt, "skeleton": source.name, "seed": seed, "files": files})
        record = {
            "settings": settings | {"height": height, "width": width},
            "skeletons": [source.record() for source in sources],
            "videos": videos,
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in VERSIONS},
            "device": str(pipe.device),
            "seconds": round(time.time() - started, 1),
        }
        if config.pose.source == "raw":
            shutil.copytree(work / "pose", folder / "pose", dirs_exist_ok=True)
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
        (folder / INDEX).write_text(index_page(record))
    print(f"{folder}:")
    poses = sorted(str(file.relative_to(folder)) for file in folder.glob("pose/**/*.mp4"))
    for file in [INDEX, "run.json", *poses, *(file for video in videos for file in video["files"])]:
        print(f"  {file}")
    return folder


def check_settings(config: GenerateConfig) -> list[str]:
    """Return the prompts as a list, each with the style behind it, after the checks of files that settings name.

    Raises:
        ValueError: names the setting, what was got and what was expected.
    """
    prompts = [config.prompt] if isinstance(config.prompt, str) else config.prompt
    if style := config.style.strip(" ,"):
        prompts = [f"{prompt}, {style}" for prompt in prompts]
    open_loras(config.lora)
    model = locate(config.model)
    if not model.exists():
        raise ConfigError(f"model: {model}: no such folder; checkpoints/README.md says what to put where")
    if model.is_dir() and not (model / "model_index.json").is_file():
        raise ConfigError(f"model: {model}: has no model_index.json, expected a pipeline's or an image model's folder")
    return prompts


def _find_poses(config: GenerateConfig, sources: list[SkeletonInput], folder: Path) -> list[SkeletonInput]:
    """Finds the people of raw videos; what extract-pose writes goes to the folder, or of several to one each in it."""
    names = [f"{number:02d}-{slug(source.name)}" for number, source in enumerate(sources)]
    folders = [folder] if len(sources) == 1 else [folder / name for name in names]
    return [source.found(_people(config, source, each)) for source, each in zip(sources, folders, strict=True)]


def load_pipeline(config: GenerateConfig) -> "FollowYourPosePipeline":
    """Loads `config.model`, a pipeline's folder or an image model, which is inflated, and brings it to the settings.

    Raises:
        ValueError: the model or a LoRA cannot be used, or the device or what is to run on it is not there.
    """
    import torch  # late, as is the pipeline: what is wrong before here is told without the seconds that this takes

    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

    device = torch.device(torch_device(config.device))
    path, dtype = locate(config.model), getattr(torch, config.dtype)
    if path.is_dir() and "pose_encoder" in json.loads((path / "model_index.json").read_text()):
        pipe = FollowYourPosePipeline.from_pretrained(path, dtype=dtype)
    else:
        print(f"{path} is an image model: nothing in it knows poses or motion yet, and the skeleton has no effect")
        pipe = FollowYourPosePipeline.from_image_model(path, dtype=dtype)
    apply_loras(pipe, open_loras(config.lora))
    prepare(pipe, config, device)
    pipe.unet.set_attention_backend(config.attention)
    return pipe


def sample(
    pipe: "FollowYourPosePipeline", config: GenerateConfig, prompt: str, skeleton: np.ndarray, seed: int
) -> np.ndarray:
    """One video, (f, H, W, 3) uint8 RGB, of a prompt and a skeleton (f, H, W, 3) uint8 RGB of the same size."""
    from followyourpose.pipeline.denoise import StreamState

    config = dataclasses.replace(config, num_frames=len(skeleton))
    shot = Shot(prompt, lambda numbers: skeleton[list(numbers)], skeleton.shape[1:3], seed)
    return np.concatenate(list(stream(pipe, config, shot, StreamState())))


def stream(
    pipe: "FollowYourPosePipeline", config: GenerateConfig, shot: Shot, state: "StreamState"
) -> Iterator[np.ndarray]:
    """A video in parts (f, H, W, 3) uint8 RGB, one after the other; `state`: see `FollowYourPosePipeline.stream`."""
    import torch

    parts = pipe.stream(
        shot.prompt,
        shot.skeleton,
        num_frames=config.num_frames,
        height=shot.size[0],
        width=shot.size[1],
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        negative_prompt=config.negative_prompt,
        pose_guidance=config.pose_guidance,
        noise=config.noise,
        generator=torch.Generator().manual_seed(shot.seed),  # on the CPU: the same video on every device
        long_video=config.long_video,
        output_type="np",
        state=state,
        callback_on_step_end=shot.on_step,
        **sampling_arguments(config),
    )
    with memory_explained(pipe, config):
        for videos in parts:
            yield (videos[0] * 255).round().astype(np.uint8)


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Frames (f, H, W, 3) uint8 -> (f, factor * H, factor * W, 3), by bicubic interpolation."""
    if factor == 1:
        return frames
    return np.stack([cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC) for f in frames])


def contact_sheet(frames: np.ndarray, at_most: int = SHEET_FRAMES) -> np.ndarray:
    """At most so many of (f, H, W, 3), evenly spaced and in reading order, on one picture (H', W', 3), 8 in a row."""
    chosen = frames[_evenly(len(frames), at_most)]
    columns = min(len(chosen), SHEET_COLUMNS)
    chosen = np.pad(chosen, ((0, -len(chosen) % columns), (2, 2), (2, 2), (0, 0)), constant_values=255)
    _, height, width, _ = chosen.shape
    rows = chosen.reshape(-1, columns, height, width, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, 3)


def _output(config: GenerateConfig, prompt: str) -> Path:
    name = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{slug(prompt)}"
    return Path("outputs") / name if config.output is None else Path(config.output).expanduser()


def _evenly(total: int, at_most: int = SHEET_FRAMES) -> np.ndarray:
    """The numbers of the frames on a contact sheet, of so many."""
    return np.linspace(0, total - 1, min(total, at_most)).round().astype(int)


def _people(config: GenerateConfig, source: SkeletonInput, folder: Path) -> ClipKeypoints:
    """Those in a raw video: they are looked for, unless the folder says where they are."""
    if folder.exists():
        return read_keypoints(folder / "keypoints.json")
    pose = dataclasses.replace(config.pose, device=config.pose.device or config.device)
    return extract_pose(source.path, folder, pose, source.span)


def _draw(pipe: "FollowYourPosePipeline", config: GenerateConfig, shot: Shot, video: UnfinishedVideo) -> None:
    """Finishes a video, from where it stands."""
    state, (height, width) = video.state(), (side * config.enlarge for side in shot.size)
    with growing_video(video.preview, height, width, config.fps) as show:
        for numbers in _chunks(state.frames):
            show(enlarge(video.frames(numbers), config.enlarge))
        for frames in stream(pipe, config, shot, state):
            show(enlarge(frames, config.enlarge))
            video.keep(frames, state)


def _write(
    folder: Path,
    files: list[str],
    video: UnfinishedVideo,
    skeleton: Callable[[Sequence[int]], np.ndarray],
    config: GenerateConfig,
) -> None:
    """Writes a finished video in all its forms, by the names in `files`; what it was made of is removed."""
    mp4, gif, sheet, pair = (video.folder / file for file in files)
    total, (height, width) = config.num_frames, enlarge(video.frames([0]), config.enlarge).shape[1:3]
    with (
        video_writer(mp4, height, width, config.fps) as write,
        gif_writer(gif, height, width, config.fps) as write_gif,
        video_writer(pair, height, 2 * width, config.fps) as write_pair,
    ):
        for numbers in _chunks(total):
            frames = enlarge(video.frames(numbers), config.enlarge)
            write(frames)
            write_gif(frames)
            write_pair(np.concatenate([skeleton(numbers), frames], axis=2))
    Image.fromarray(contact_sheet(enlarge(video.frames(_evenly(total)), config.enlarge))).save(sheet)
    for file in (mp4, gif, sheet, pair):
        file.replace(folder / file.name)
    video.remove()


def _chunks(total: int) -> list[range]:
    return [range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK)]


def _version(package: str) -> str | None:
    """None: not installed as a package, as in a bare checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
