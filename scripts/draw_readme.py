"""Draws the picture at the top of the README: skeletons above, and below what the embedded default makes of them.

python scripts/draw_readme.py followyourpose/assets/readme.gif
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from followyourpose.config import REPOSITORY, GenerateConfig, load_config
from followyourpose.data.video_io import write_gif
from followyourpose.generate import enlarge, load_pipeline, sample
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.world import Actor, Scene, render_scene

FRAMES, SIZE, SCALE = 16, 64, 2
# Prompt, motion and the way the person faces, in degrees.
SHOWN = (
    ("a panda in the forest", "star_jump", 5),
    ("iron man on the street", "run", 60),
    ("an astronaut on the moon", "wave", -10),
    ("superman, yellow background", "kick", 55),
    ("hulk on the beach", "dance", 10),
    ("a robot in the desert", "squat", 20),
)


def main(path: str) -> None:
    config = load_config(GenerateConfig, REPOSITORY / "configs" / "puppet" / "generate.yaml")
    pipe, columns = load_pipeline(config), []
    pipe.set_progress_bar_config(disable=True)
    for seed, (prompt, motion, yaw) in enumerate(SHOWN):
        actor = Actor(motion, seed, x=0.5, y=0.93, height=0.72, yaw=yaw, drift=0.0, phase=0.0, speed=1 / FRAMES)
        _, people = render_scene(
            Scene("an astronaut", "on the moon", (actor,), seed), FRAMES, SIZE * SCALE, SIZE * SCALE
        )
        small = people * (1 / SCALE, 1 / SCALE, 1)
        skeleton, large = (
            np.stack([render_skeleton(each, size, size) for each in poses])
            for poses, size in ((small, SIZE), (people, SIZE * SCALE))
        )
        frames = enlarge(sample(pipe, config, prompt, skeleton, seed), SCALE)
        columns.append(np.concatenate([large, frames], axis=1))
    write_gif(path, np.concatenate(columns, axis=2), fps=8)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])
