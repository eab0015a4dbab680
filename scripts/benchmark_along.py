"""`python -m scripts.benchmark_along`: prompts that change along a video, on puppets.

Each video of 80 frames has one caption until frame 8 and another one from there on, of another character or another
place by turns, with and without frames of transition between them. Judges read the first and the last eight frames.
Two kinds of rows say what can be expected: "mixed" are the latents of a video of each caption, mixed in even steps; and
"one caption" is that of the beginning, kept to the end, so that the motion alone makes changes.

Letters: f frames, H W pixels.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from followyourpose import FollowYourPosePipeline
from followyourpose.common.files import atomic_write
from followyourpose.common.pictures import contact_sheet, to_uint8, write_picture
from followyourpose.common.tables import markdown_table
from followyourpose.config import locate
from followyourpose.pipeline.schedule import numbers
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import caption, render_scene, sample_scene
from scripts.benchmark_people import SETTINGS, SIDE, Judges

FRAMES, CHANGE, EDGE, SEED = 80, 8, 8, 8000
HEAD = ["", "transition", "first eight frames right", "last eight right", "largest jump, median", "largest jump, 90 %"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=32, help="number of videos")
    parser.add_argument("--transitions", type=int, nargs="+", default=[0, 8, 16, 32, 64], help="frames between prompts")
    parser.add_argument("--steps", type=int, default=SETTINGS["num_inference_steps"], help="denoising steps")
    parser.add_argument("--out", type=Path, default=Path("outputs/along"), help="folder for table.md and samples.png")
    args = parser.parse_args()
    pipe, judges = FollowYourPosePipeline.from_pretrained(locate("checkpoints/puppet")), Judges()
    pipe.set_progress_bar_config(disable=True)
    rows, samples = [], []
    for name, system in SYSTEMS.items():
        for transition in args.transitions:
            first, last, jumps = [], [], []
            for number in tqdm(range(args.videos), f"{name}, transition {transition}"):
                clip = Clip.sampled(number)
                if name == "one caption":
                    clip = replace(clip, after=clip.before)
                video = system(pipe, clip, transition, args.steps)
                first.append(judges.named(video[:EDGE]) == clip.before)
                last.append(judges.named(video[-EDGE:]) == clip.after)
                jumps.append(largest_jump(video, transition))
                if number < 4:
                    samples.append(video)
            shares = (f"{100 * np.mean(right):.0f} %" for right in (first, last))
            rows.append([name, str(transition), *shares, *(f"{np.quantile(jumps, q):.2f}" for q in (0.5, 0.9))])
    args.out.mkdir(parents=True, exist_ok=True)
    write_picture(args.out / "samples.png", np.concatenate([contact_sheet(video) for video in samples]))
    table = markdown_table(HEAD, rows)
    atomic_write(args.out / "table.md", table)
    print(table)


@dataclass(frozen=True)
class Clip:
    """A video to draw: its skeleton (f, H, W, 3), and character and place of its first and of its second caption."""

    number: int
    skeleton: np.ndarray
    before: tuple[str, str]
    after: tuple[str, str]

    @classmethod
    def sampled(cls, number: int) -> "Clip":
        """Return a clip of a list that its seed fixes."""
        rng = np.random.default_rng((SEED, number))
        scene = sample_scene(rng, "all", two=0)
        choices, own = (CHARACTERS, scene.character) if number % 2 else (BACKGROUNDS, scene.background)
        other = str(rng.choice([name for name in choices if name != own]))
        after = (other, scene.background) if number % 2 else (scene.character, other)
        _, keypoints = render_scene(scene, FRAMES, SIDE, SIDE)
        skeleton = np.stack([render_skeleton(people, SIDE, SIDE) for people in keypoints])
        return cls(number, skeleton, (scene.character, scene.background), after)


# ---- systems: a clip and the frames of its transition -> a video (f, H, W, 3) uint8 ----------------------------------


def prompts(pipe: FollowYourPosePipeline, clip: Clip, transition: int, steps: int) -> np.ndarray:
    """Draw by a prompt that changes along the video."""
    latents = _latents(pipe, clip, {0: caption(*clip.before), CHANGE: caption(*clip.after)}, steps, transition)
    return to_uint8(pipe.decode(latents)[0])


def mixed(pipe: FollowYourPosePipeline, clip: Clip, transition: int, steps: int) -> np.ndarray:
    """Draw a video by each caption from the same noise, and mix their latents."""
    first, second = (_latents(pipe, clip, caption(*words), steps) for words in (clip.before, clip.after))
    share = torch.tensor(numbers({0: 0.0, CHANGE: 1.0}, range(FRAMES), transition))[:, None, None]
    return to_uint8(pipe.decode(first + share * (second - first))[0])


SYSTEMS = {"prompt by frame": prompts, "mixed": mixed, "one caption": prompts}


def _latents(
    pipe: FollowYourPosePipeline, clip: Clip, prompt: str | dict[int, str], steps: int, transition: int = 0
) -> torch.Tensor:
    settings = SETTINGS | {"num_inference_steps": steps, "transition": transition, "output_type": "latent"}
    generator = torch.Generator().manual_seed(SEED + clip.number)
    return pipe(prompt, clip.skeleton, generator=generator, **settings).videos


def largest_jump(video: np.ndarray, transition: int) -> float:
    """Return the largest change between neighbouring frames (f, H, W, 3) around the prompt's, in usual changes.

    The usual change is the mean of those before, and of those behind.
    """
    changes = np.abs(np.diff(video.astype(float), axis=0)).mean((1, 2, 3))
    around = slice(CHANGE - 1, CHANGE + transition)
    usual = np.concatenate([changes[: around.start], changes[around.stop :]]).mean()
    return float(changes[around].max() / usual)


if __name__ == "__main__":
    main()
