"""Pictures of the README: skeletons above, the embedded default's videos below.

python -m scripts.draw_readme .github/pictures/readme.gif    one character each
python -m scripts.draw_readme .github/pictures/styles.gif    in another style, and with two characters
python -m scripts.draw_readme .github/pictures/world.png     the puppet world itself
python -m scripts.draw_readme .github/pictures/pairs.png     frames of the embedded default, beside rendered ones
python -m scripts.draw_readme .github/pictures/ids.png       two people by their track ids, and by a sentence each
python -m scripts.draw_readme .github/pictures/people.png dance/keypoints.json hike/keypoints.json
    frames of the puppets that move as people in videos do, by the files of extract-pose
"""

import dataclasses
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from followyourpose.config import REPOSITORY, GenerateConfig, RetargetConfig, load_config
from followyourpose.data.video_io import read_frames, write_gif
from followyourpose.generation.generate import generate, load_pipeline, sample
from followyourpose.generation.skeletons import open_skeleton
from followyourpose.pose.formats import read_any
from followyourpose.pose.render import numbered, overlay, render_skeleton
from followyourpose.puppets.styles import STYLES
from followyourpose.puppets.world import HELD_OUT_PAIRS, Actor, Scene, render_scene, sample_scene

FRAMES, SIZE = 16, 128
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
        poses = skeleton(motions, seed)
        prompt += STYLES[style].suffix if style else ""
        columns.append(np.concatenate([poses, sample(pipes[style], config, prompt, poses, seed)], axis=1))
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
        poses = source.frames(SIZE, SIZE)
        frames = sample(pipe, config, prompt, poses, seed)
        rows += [np.concatenate(list(each[::3]), 1) for each in (poses, frames)]
    Image.fromarray(np.concatenate(rows)).quantize(128).save(path, optimize=True)


def draw_ids(path: str) -> None:
    """Write frames of a rendered video with the track ids of its people, and of a video of the same motions."""
    actors = tuple(
        Actor(motion, seed=1, x=x, y=0.93, height=0.6, yaw=8.0, drift=0.0, phase=0.0, speed=1 / FRAMES)
        for motion, x in (("wave", 0.27), ("dance", 0.73))
    )
    side = 2 * SIZE
    frames, people = render_scene(Scene("a boy", "on the street", actors, 1), FRAMES, side, side, ("a boy", "a girl"))
    shown = [
        numbered(overlay(frame, render_skeleton(each, side, side)), each, range(2))
        for frame, each in zip(frames, people, strict=True)
    ]
    settings = [
        "skeleton=followyourpose/assets/two.json", "prompt=two robots on the moon",
        "people={0: a robot on the moon, 1: iron man on the moon}", "outputs=[gif]",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = [*settings, f"output={folder}/run"]
        generate(load_config(GenerateConfig, REPOSITORY / "configs" / "puppet" / "generate.yaml", run))
        drawn = read_frames(next(Path(folder).glob("run/*.gif")))
    rows = [np.concatenate(list(each)[1::4], 1) for each in (shown, drawn)]
    Image.fromarray(np.concatenate(rows)).quantize(128).save(path, optimize=True)


def draw_world(path: str) -> None:
    """Write a rendered scene of each held-out pair."""
    write_rows(path, [render_scene(scene, 1, SIZE, SIZE)[0][0] for scene in held_out_scenes()])


def draw_pairs(path: str) -> None:
    """Write a frame of each held-out pair: rendered above, of the embedded default with its skeleton below."""
    config = load_config(GenerateConfig, REPOSITORY / "configs" / "puppet" / "generate.yaml")
    pipe, columns = load_pipeline(config), []
    pipe.set_progress_bar_config(disable=True)
    for seed, scene in enumerate(held_out_scenes()):
        frames, people = render_scene(scene, FRAMES // 2, SIZE, SIZE)
        poses = np.stack([render_skeleton(each, SIZE, SIZE) for each in people])
        columns.append(np.concatenate([frames[-1], sample(pipe, config, scene.caption, poses, seed)[-1]]))
    write_rows(path, columns)


def held_out_scenes() -> list[Scene]:
    rng = np.random.default_rng(2)
    return [
        dataclasses.replace(sample_scene(rng, "held-out", two=0), character=character, background=background)
        for character, background in HELD_OUT_PAIRS
    ]


def write_rows(path: str, pictures: list[np.ndarray]) -> None:
    """Write pictures, the even and the odd ones, as two rows."""
    rows = [np.concatenate(pictures[i::2], 1) for i in (0, 1)]
    Image.fromarray(np.concatenate(rows)).quantize(192).save(path, optimize=True)


def skeleton(motions: list[tuple[str, float]], seed: int) -> np.ndarray:
    """Skeleton frames (f, SIZE, SIZE, 3) uint8 of one person in the middle, or of two side by side."""
    places, height = ((0.5,), 0.72) if len(motions) == 1 else ((0.27, 0.73), 0.6)
    actors = tuple(
        Actor(motion, seed, x=x, y=0.93, height=height, yaw=yaw, drift=0.0, phase=0.0, speed=1 / FRAMES)
        for (motion, yaw), x in zip(motions, places, strict=True)
    )
    _, people = render_scene(Scene("an astronaut", "on the moon", actors, seed), FRAMES, SIZE, SIZE)
    return np.stack([render_skeleton(each, SIZE, SIZE) for each in people])


DRAWN = {"world": draw_world, "pairs": draw_pairs, "ids": draw_ids}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].endswith("people.png") and sys.argv[2:]:
        draw_people(sys.argv[1], sys.argv[2:])
    elif len(sys.argv) == 2 and Path(sys.argv[1]).stem in DRAWN:
        DRAWN[Path(sys.argv[1]).stem](sys.argv[1])
    elif len(sys.argv) == 2 and Path(sys.argv[1]).stem in PICTURES:
        main(sys.argv[1])
    else:
        sys.exit(__doc__)
