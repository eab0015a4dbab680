"""`followyourpose generate`: prompts x skeletons x seeds -> a folder of videos (arXiv 2304.01186, inference).

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

import dataclasses
import itertools
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from followyourpose.common.device import torch_device, torch_dtype
from followyourpose.common.files import printable, slug
from followyourpose.common.pictures import enlarge, to_uint8
from followyourpose.config import GenerateConfig, find_model
from followyourpose.data.video_io import growing_video
from followyourpose.generation.checks import check_settings, check_space, frame_size, model_path, with_prompts
from followyourpose.generation.extract_pose import check_pose, find_poses
from followyourpose.generation.loras import add_embeddings, add_loras, lora_scales, open_embeddings
from followyourpose.generation.outputs import INDEX, Frames, Shot, chunks, shots_of, versions, write_forms, write_record
from followyourpose.generation.people import Prompt, announced, loras_of, people_of, texts_of, title
from followyourpose.generation.sampling import memory_explained, prepare, sampling_arguments
from followyourpose.generation.sharing import Processes
from followyourpose.generation.skeletons import check_drawn, open_skeletons, print_cut_off
from followyourpose.generation.unfinished import FOLDER, RECORD, UnfinishedVideo
from followyourpose.generation.unknown_words import print_unknown_words
from followyourpose.models.loading import model_kind

if TYPE_CHECKING:
    from followyourpose.pipeline.call import Callback
    from followyourpose.pipeline.denoise import StreamState
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline


def generate(
    config: GenerateConfig,
    pipe: "FollowYourPosePipeline | None" = None,
    on_step: "Callback | None" = None,
    runner: "Callable[[Drawing, list[Shot]], None] | None" = None,
) -> Path:
    """Generate `num_videos_per_prompt` videos of each prompt with each skeleton and return the folder that holds them.

    Each video is an .mp4, a .gif, a contact sheet (-sheet.png) and an .mp4 beside its skeleton (-with-skeleton.mp4),
    or those that `outputs` lists; index.html shows all of them, and run.json holds settings and versions. Video j of a
    prompt starts from seed + j, whatever the other prompts and skeletons are. For raw videos, `pose` holds the files of
    extract-pose for the frames that are used.

    Frames are written as they are finished, and memory holds those of one window. A run that is interrupted, by a
    signal or a kill, keeps them in `unfinished`, and goes on when it is called with the same settings and this folder;
    then its videos are those of a run that was not interrupted. One that fails before a frame is finished leaves
    nothing behind.

    Args:
        pipe: from `load_pipeline` for these settings; None: it is loaded here.
        on_step: see `callback_on_step_end` of the pipeline's call; an exception in it ends the run.
        runner: draws the videos elsewhere; None: this process does, or those that a launcher started (`Processes`).

    Raises:
        ValueError: a setting, a skeleton, a LoRA, the model or the output folder cannot be used; the settings and files
            are checked before the model is loaded.
    """
    config = with_prompts(config)
    prompts = check_settings(config)
    sources = open_skeletons(config)
    for source in sources:
        check_drawn(source)
    raw = config.pose.source == "raw"
    if raw:
        check_pose(config.pose)
    started, folder, size = time.time(), _output(config, title(prompts[0])), frame_size(config, pipe)
    check_space(config, folder, size, len(sources) * len(prompts) * config.num_videos_per_prompt)
    settings = dataclasses.asdict(config)
    processes = Processes()
    folder = processes.agree(folder)
    with processes.run(folder, {key: value for key, value in settings.items() if key != "output"}) as work:
        print(printable(f"{folder}: if this is interrupted, the same command with output={folder} goes on"))
        if raw:
            if processes.first:
                find_poses(config, sources, work / "pose")
            processes.wait()
            sources = find_poses(config, sources, work / "pose")  # they are there
        for source in sources:
            print_cut_off(source, *size)
            people_of(config, source, size)  # before the model is loaded
        shots = shots_of(config, prompts, sources, size)
        drawing = Drawing(config, folder, pipe, on_step)
        if runner is None:
            drawing.draw(shots, processes)
        else:
            runner(drawing, shots)
        processes.wait()
        if not processes.first:
            return folder
        if raw:
            finished = shutil.ignore_patterns(".*")  # but for locks that a kill left
            shutil.copytree(work / "pose", folder / "pose", ignore=finished, dirs_exist_ok=True)
        if (pipe := drawing.pipe) is None:  # the runner's processes have theirs
            device = torch_device(config.device)
            dtype = torch_dtype(config.dtype, device)
        else:
            device, dtype = str(pipe.device), pipe.unet.dtype
        record = {
            "settings": settings | dict(zip(("height", "width"), size, strict=True)),
            "skeletons": [source.record() for source in sources],
            "videos": [shot.record() for shot in shots],
            "versions": versions(),
            "device": device,
            "dtype": str(dtype).removeprefix("torch."),
            "seconds": round(time.time() - started, 1),
        }
        write_record(folder, record)
    _print_files(folder, shots)
    return folder


@dataclass(eq=False)
class Drawing:
    """The videos of a run as work for one process or several; a job of `data_prep.scale` too, and travels to actors."""

    config: GenerateConfig
    folder: Path  # of the run
    pipe: "FollowYourPosePipeline | None" = None  # from `load_pipeline`; None: not loaded yet
    on_step: "Callback | None" = None

    def is_done(self, shot: Shot) -> bool:
        """Whether a video's files are there."""
        return all((self.folder / file).exists() for file in shot.files)

    def open(self) -> Callable[[Shot], None]:
        """Load the pipeline, and return the function that draws a video."""
        if self.pipe is None:
            self.pipe = load_pipeline(self.config)
        return partial(self.finish, self.pipe)

    def draw(self, shots: list[Shot], processes: Processes) -> None:
        """Draw the videos that are not there: each by one process, or the windows of each by all where these are more.

        Both give the same bytes as one process does.
        """
        from followyourpose.pipeline.denoise import StreamState

        finish, todo = self.open(), processes.agree([not self.is_done(shot) for shot in shots])
        taught = re.findall("[a-z]+", str(list(loras_of(self.config).values())).lower())
        print_unknown_words(texts_of(self.config), self.pipe, taught)
        numbered = [each for each, missing in zip(enumerate(shots, 1), todo, strict=True) if missing]
        together = 1 <= len(numbered) < processes.count and self.config.long_video.together
        if processes.count > 1:
            self.pipe.set_progress_bar_config(disable=None if processes.first else True)
        if together:
            self.pipe.map_windows = processes.map_windows
        for number, shot in numbered if together else processes.part(numbered):
            line = (
                f"{number}/{len(shots)}  {announced(self.config, shot.prompt)}  ({shot.source.name}, seed {shot.seed})"
            )
            if not together:
                processes.print(line)
                finish(shot)
                continue
            print(printable(line))
            begun = processes.agree(processes.first and self._kept(shot).resume(shot.size).known is not None)
            if processes.first:
                finish(shot)
            elif not begun:  # the first part comes when all windows are denoised, and is the first process's to write
                next(self._parts(self.pipe, shot, StreamState()))

    def finish(self, pipe: "FollowYourPosePipeline", shot: Shot) -> None:
        """Draw a video from the state in which it was left, and write it; what was kept of it is removed."""
        video = self._kept(shot)
        state = video.resume(shot.size)
        if state.frames < self.config.num_frames:
            self._draw(pipe, shot, video, state)
        write_forms(video.folder, shot, video.frames, self.config)
        for file in shot.files:
            (video.folder / file).replace(self.folder / file)
        video.remove()

    def _draw(self, pipe: "FollowYourPosePipeline", shot: Shot, video: UnfinishedVideo, state: "StreamState") -> None:
        factor = self.config.enlarge
        with growing_video(video.preview, *(side * factor for side in shot.size), self.config.fps) as show:
            for numbers in chunks(state.frames):
                show(enlarge(video.frames(numbers), factor))
            for frames in self._parts(pipe, shot, state):
                show(enlarge(frames, factor))
                video.keep(frames, state)

    def _parts(self, pipe: "FollowYourPosePipeline", shot: Shot, state: "StreamState") -> Iterator[np.ndarray]:
        skeleton = partial(shot.source.frames, *shot.size)
        people = people_of(self.config, shot.source, shot.size)
        return stream(pipe, self.config, shot.prompt, skeleton, shot.size, shot.seed, state, self.on_step, people)

    def _kept(self, shot: Shot) -> UnfinishedVideo:
        return UnfinishedVideo(self.folder / FOLDER, shot.name)


def load_pipeline(config: GenerateConfig) -> "FollowYourPosePipeline":
    """Load `config.model`, a pipeline's folder or an image model, which is inflated, and apply the settings to it.

    Raises:
        ValueError: the model or an addition to it cannot be used, or the device or a package is missing.
    """
    # late: settings are checked without the seconds that this takes
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

    device = torch_device(config.device)
    path, dtype = model_path(config), torch_dtype(config.dtype, device)
    if model_kind(path) == "pipeline":
        pipe = FollowYourPosePipeline.from_pretrained(path, dtype=dtype)
    else:
        print(f"{path} is an image model, trained on neither poses nor motion: the skeleton has no effect")
        configs = None if config.config is None else find_model(config.config, "config")
        pipe = FollowYourPosePipeline.from_image_model(path, dtype=dtype, config=configs)
    if config.vae is not None:
        pipe.load_vae(find_model(config.vae, "vae"))
    add_embeddings(pipe, open_embeddings(config.embeddings))
    add_loras(pipe, config)
    prepare(pipe, config, device)
    pipe.set_progress_bar_config(disable=None)  # bars on a terminal alone
    if config.attention is not None:
        pipe.unet.set_attention_backend(config.attention)
    return pipe


def sample(
    pipe: "FollowYourPosePipeline", config: GenerateConfig, prompt: str, skeleton: np.ndarray, seed: int
) -> np.ndarray:
    """Return one video, (f, H, W, 3) uint8 RGB, of a prompt and a skeleton (f, H, W, 3) uint8 RGB of the same size."""
    from followyourpose.pipeline.denoise import StreamState

    config = dataclasses.replace(config, num_frames=len(skeleton))
    size = skeleton.shape[1:3]
    parts = stream(pipe, config, prompt, lambda numbers: skeleton[list(numbers)], size, seed, StreamState())
    return np.concatenate(list(parts))


def stream(
    pipe: "FollowYourPosePipeline",
    config: GenerateConfig,
    prompt: Prompt,
    skeleton: Frames,
    size: tuple[int, int],
    seed: int,
    state: "StreamState",
    on_step: "Callback | None" = None,
    people: list[dict[str, Any]] | None = None,
) -> Iterator[np.ndarray]:
    """Yield a video in parts (f, H, W, 3) uint8 RGB, one after the other; see `FollowYourPosePipeline.stream`."""
    import torch

    parts = pipe.stream(
        prompt,
        skeleton,
        people=people,
        scene_share=config.scene_share,
        overlap=config.overlap,
        transition=config.transition,
        lora_scales=lora_scales(config),
        num_frames=config.num_frames,
        height=size[0],
        width=size[1],
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        negative_prompt=config.negative_prompt,
        pose_guidance=config.pose_guidance,
        noise=config.noise,
        generator=torch.Generator().manual_seed(seed),  # on the CPU: the same video on every device
        long_video=config.long_video,
        output_type="np",
        callback_on_step_end=on_step,
        state=state,
        **sampling_arguments(config),
    )
    with memory_explained(pipe, config):
        for videos in parts:
            yield to_uint8(videos[0])


# ---- steps of a run --------------------------------------------------------------------------------------------------


def _output(config: GenerateConfig, prompt: str) -> Path:
    """Return the folder of a run, by default a new one, named after the time, the prompt and, if need be, a number."""
    if config.output is not None:
        return Path(config.output).expanduser()
    name = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{slug(prompt)}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(folder for each in names if not (folder := Path("outputs") / each).exists())


def _print_files(folder: Path, shots: list[Shot]) -> None:
    poses = sorted(str(file.relative_to(folder)) for file in folder.glob("pose/**/*.mp4"))
    print(printable(f"{folder}:"))
    for file in [INDEX, RECORD, *poses, *(file for shot in shots for file in shot.files)]:
        print(f"  {file}")
