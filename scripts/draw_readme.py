"""Pictures of the README: skeletons above, the embedded default's videos below.

python -m scripts.draw_readme .github/pictures/readme.gif    one character each
python -m scripts.draw_readme .github/pictures/styles.gif    in another style, and with two characters
python -m scripts.draw_readme .github/pictures/people.png dance/keypoints.json hike/keypoints.json
    frames of the puppets that move as people in videos do, by the files of extract-pose
"""

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from followyourpose.common.pictures import enlarge
from followyourpose.config import REPOSITORY, GenerateConfig, RetargetConfig, load_config
from followyourpose.data.video_io import write_gif
from followyourpose.generation.generate import load_pipeline, sample
from followyourpose.generation.skeletons import open_skeleton
from followyourpose.pose.formats import read_any
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.styles import STYLES
from followyourpose.puppets.world import Actor, Scene, render_scene

FRAMES, SIZE, SCALE = 16, 64, 2
# Picture -> columns: prompt, style, and of each person motion and yaw in degrees.
PICTURES = {
    "readme": (
        ("a panda in the forest", None, ("star_jump", 5)),
        ("iron man on the street", None, ("run", 60)),
        ("an astronaut on the moon", None, ("wave", -10)),
        ("superman, yellow background", None, ("kick", 55)),
        ("hulk on the beach", None, ("dance", 10)),
        ("a robot in the desert", None, ("squat", 20)),
    ),
    "styles": (
        ("a panda in the forest", "blueprint", ("star_jump", 5)),
        ("batman, yellow background", "blueprint", ("dance", 10)),
        ("an astronaut on the moon", "blueprint", ("wave", -10)),
        ("two pandas in the snow", None, ("wave", 10), ("dance", -10)),
        ("two supermans, yellow background", None, ("star_jump", 0), ("wave", 0)),
        ("two astronauts on the sea", "blueprint", ("dance", 10), ("squat", -20)),
    ),
}


CAST = "an astronaut on the moon", "a panda in the forest", "a robot in the desert"  # for people's motions, in turn
REFERENCE = "followyourpose/assets/dance.json"  # a puppet's proportions


def main(path: str) -> None:
    config = load_config(GenerateConfig, REPOSITORY / "configs" / "puppet" / "generate.yaml")
    shown, pipes, columns = PICTURES[Path(path).stem], {}, []
    for style in dict.fromkeys(column[1] for column in shown):
        lora = f"checkpoints/puppet-lora-{style}" if style else []
        pipes[style] = load_pipeline(dataclasses.replace(config, lora=lora))
        pipes[style].set_progress_bar_config(disable=True)
    for seed, (prompt, style, *motions) in enumerate(shown):
        small, large = (skeleton(motions, seed, size) for size in (SIZE, SIZE * SCALE))
        prompt += STYLES[style].suffix if style else ""
        frames = enlarge(sample(pipes[style], config, prompt, small, seed), SCALE)
        columns.append(np.concatenate([large, frames], axis=1))
    write_gif(path, np.concatenate(columns, axis=2), fps=8)


def draw_people(path: str, keypoints: list[str]) -> None:
    """Write skeletons and puppets of every third frame, from the beginning of each clip to its end."""
    config = load_config(GenerateConfig, REPOSITORY / "configs" / "puppet" / "generate.yaml")
    config = dataclasses.replace(config, retarget=RetargetConfig(REFERENCE))
    pipe, rows = load_pipeline(config), []
    pipe.set_progress_bar_config(disable=True)
    for seed, (file, prompt) in enumerate(zip(keypoints, itertools.cycle(CAST), strict=False)):
        stride = len(read_any(Path(file)).clip().frames) // FRAMES
        source = open_skeleton(dataclasses.replace(config, skeleton=file, stride=stride))
        frames = enlarge(sample(pipe, config, prompt, source.frames(SIZE, SIZE), seed), SCALE)
        rows += [np.concatenate(list(each[::3]), 1) for each in (source.frames(SIZE * SCALE, SIZE * SCALE), frames)]
    Image.fromarray(np.concatenate(rows)).quantize(128).save(path, optimize=True)


def skeleton(motions: list[tuple[str, float]], seed: int, size: int) -> np.ndarray:
    """Skeleton frames (f, size, size, 3) uint8 of one person in the middle, or of two side by side."""
    places, height = ((0.5,), 0.72) if len(motions) == 1 else ((0.27, 0.73), 0.6)
    actors = tuple(
        Actor(motion, seed, x=x, y=0.93, height=height, yaw=yaw, drift=0.0, phase=0.0, speed=1 / FRAMES)
        for (motion, yaw), x in zip(motions, places, strict=True)
    )
    _, people = render_scene(Scene("an astronaut", "on the moon", actors, seed), FRAMES, SIZE * SCALE, SIZE * SCALE)
    share = size / (SIZE * SCALE)
    return np.stack([render_skeleton(each * (share, share, 1), size, size) for each in people])


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].endswith("people.png") and sys.argv[2:]:
        draw_people(sys.argv[1], sys.argv[2:])
    elif len(sys.argv) == 2 and Path(sys.argv[1]).stem in PICTURES:
        main(sys.argv[1])
    else:
        sys.exit(__doc__)
