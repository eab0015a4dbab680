"""Pictures of the README: skeletons above, the embedded default's videos below.

python -m scripts.draw_readme .github/pictures/readme.gif    one character each
python -m scripts.draw_readme .github/pictures/styles.gif    in another style, and with two characters
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from followyourpose.common.pictures import enlarge
from followyourpose.config import REPOSITORY, GenerateConfig, load_config
from followyourpose.data.video_io import write_gif
from followyourpose.generation.generate import load_pipeline, sample
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
    if len(sys.argv) != 2 or Path(sys.argv[1]).stem not in PICTURES:
        sys.exit(__doc__)
    main(sys.argv[1])
