"""Validation: videos that a run draws on the way, always from the same noise, prompts and skeleton."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from followyourpose.common.files import slug
from followyourpose.common.pictures import to_uint8
from followyourpose.config import GenerateConfig, TrainConfig
from followyourpose.data.video_io import VideoError, write_video
from followyourpose.generation.skeletons import open_skeleton
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.pipeline.pipeline import FollowYourPosePipeline, vae_scale_factor
from followyourpose.training.components import as_video
from followyourpose.training.objectives import Denoise

FPS = 8.0


class Validation:
    """Draws one video per prompt with a run's present networks, into its folder and its trackers.

    A run that trains no pose encoder draws without a skeleton, an image UNet a single frame.

    Raises:
        ValueError: the skeleton cannot be used.
    """

    def __init__(self, config: TrainConfig, objective: Denoise, folder: Path) -> None:
        self.config, self.objective, self.folder = config, objective, folder
        settings, self.skeleton = config.validation, None
        self.frames = 1 if isinstance(objective.parts["unet"], UNet2DConditionModel) else settings.num_frames
        if "pose_encoder" in objective.parts:
            video = {"skeleton": settings.skeleton, "num_frames": self.frames, "skeleton_end": "loop"}
            source = open_skeleton(GenerateConfig(prompt=settings.prompts, **video))
            self.skeleton = source.frames(config.data.height, config.data.width)

    @torch.no_grad()
    def draw(self, step: int, accelerator: Accelerator) -> list[Path]:
        """Write STEP-PROMPT.mp4 for each prompt, and a row of frames to the trackers; return the files.

        A file that cannot be written is reported, and does not end the run.
        """
        settings, pipe = self.config.validation, self._pipeline()
        self.objective.eval()
        files, pictures = [], {}
        for prompt in settings.prompts:
            with accelerator.autocast():
                (video,) = pipe(
                    prompt, self.skeleton, num_frames=self.frames, height=self.config.data.height,
                    width=self.config.data.width, num_inference_steps=settings.num_inference_steps,
                    guidance_scale=settings.guidance_scale, pose_guidance=settings.pose_guidance, noise=settings.noise,
                    generator=torch.Generator().manual_seed(self.config.seed),
                ).videos  # fmt: skip
            frames = to_uint8(video)
            shown = frames if self.skeleton is None else np.concatenate([self.skeleton, frames], axis=2)
            name = slug(prompt)
            file = self.folder / f"{step:07d}-{name}.mp4"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_video(file, shown, FPS)
                files.append(file)
            except (VideoError, OSError) as error:  # a run is worth more than its reports
                tqdm.write(f"validation: {error}")
            pictures[f"validation/{name}"] = np.concatenate(list(shown), axis=1)[None]  # one picture of all frames
        for tracker in accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}  # the default of the others
            tracker.log_images(pictures, step, **layout)
        self.objective.train()
        return files

    def _pipeline(self) -> FollowYourPosePipeline:
        parts, objective = self.objective.parts, self.objective
        unet = as_video(parts["unet"])
        pose_encoder = parts["pose_encoder"] if "pose_encoder" in parts else None
        if pose_encoder is None:  # a pipeline has one; at its zero start it changes nothing
            pose_encoder = PoseEncoder(unet.config.block_out_channels, vae_scale_factor(parts["vae"]))
        pipe = FollowYourPosePipeline(
            parts["vae"], parts["text_encoder"], objective.tokenizer, unet, pose_encoder, objective.scheduler
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(parts["vae"].device)  # a new pose encoder is on the CPU
