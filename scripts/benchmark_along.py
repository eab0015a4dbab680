"""`python -m scripts.benchmark_along`: prompts that change along a video, on puppets.

Each video of 32 frames has one caption until frame 16 and another one from there on, of another character or another
place by turns, with and without frames of transition between them. Judges read the first and the last eight frames.

Letters: f frames, H W pixels.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from followyourpose import FollowYourPosePipeline
from followyourpose.common.files import atomic_write
from followyourpose.common.pictures import contact_sheet, to_uint8, write_picture
from followyourpose.common.tables import markdown_table
from followyourpose.config import locate
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import caption, render_scene, sample_scene
from scripts.benchmark_people import SETTINGS, SIDE, Judges

FRAMES, CHANGE, EDGE, SEED = 32, 16, 8, 8000
HEAD = ["transition", "first eight frames right", "last eight right", "largest jump, median", "largest jump, 90 %"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=32, help="number of videos")
    parser.add_argument("--transitions", type=int, nargs="+", default=[0, 8], help="frames between the prompts")
    parser.add_argument("--out", type=Path, default=Path("outputs/along"), help="folder for table.md and samples.png")
    args = parser.parse_args()
    pipe, judges = FollowYourPosePipeline.from_pretrained(locate("checkpoints/puppet")), Judges()
    pipe.set_progress_bar_config(disable=True)
    rows, samples = [], []
    for transition in args.transitions:
        first, last, jumps = [], [], []
        for number in tqdm(range(args.videos), f"transition {transition}"):
            video, (before, after) = draw(pipe, number, transition)
            first.append(judges.named(video[:EDGE]) == before)
            last.append(judges.named(video[-EDGE:]) == after)
            jumps.append(largest_jump(video, transition))
            if number < 4:
                samples.append(video)
        shares = (f"{100 * np.mean(right):.0f} %" for right in (first, last))
        rows.append([str(transition), *shares, *(f"{np.quantile(jumps, q):.2f}" for q in (0.5, 0.9))])
    args.out.mkdir(parents=True, exist_ok=True)
    write_picture(args.out / "samples.png", np.concatenate([contact_sheet(video) for video in samples]))
    table = markdown_table(HEAD, rows)
    atomic_write(args.out / "table.md", table)
    print(table)


def draw(
    pipe: FollowYourPosePipeline, number: int, transition: int
) -> tuple[np.ndarray, tuple[tuple[str, str], tuple[str, str]]]:
    """Return a video (f, H, W, 3) uint8, and the character and place of its first and of its second prompt."""
    rng = np.random.default_rng((SEED, number))
    scene = sample_scene(rng, "all", two=0)
    choices, own = (CHARACTERS, scene.character) if number % 2 else (BACKGROUNDS, scene.background)
    other = str(rng.choice([name for name in choices if name != own]))
    before = scene.character, scene.background
    after = (other, scene.background) if number % 2 else (scene.character, other)
    _, keypoints = render_scene(scene, FRAMES, SIDE, SIDE)
    skeleton = np.stack([render_skeleton(people, SIDE, SIDE) for people in keypoints])
    prompt = {0: caption(*before), CHANGE: caption(*after)}
    generator = torch.Generator().manual_seed(SEED + number)
    out = pipe(prompt, skeleton, transition=transition, generator=generator, **SETTINGS)
    return to_uint8(out.videos[0]), (before, after)


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
