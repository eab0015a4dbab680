"""The world: seed -> scene -> frames, keypoints and caption, all exact and all from one random generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from followyourpose.pose.skeleton import JOINT
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.brush import FINE, Brush
from followyourpose.puppets.characters import CHARACTERS, draw_character
from followyourpose.puppets.motions import HELD_OUT_MOTIONS, MOTIONS, joints_in_space

# Never together in training: the prompts of an evaluation.
HELD_OUT_PAIRS = (
    ("an astronaut", "on the beach"), ("a robot", "in the snow"), ("a panda", "on the moon"),
    ("iron man", "in the desert"), ("hulk", "on the sea"), ("a stormtrooper", "in the forest"),
    ("batman", "brown background"), ("superman", "on the street"), ("a fireman", "purple background"),
    ("a policeman", "in the desert"), ("a boy", "on the moon"), ("a girl", "yellow background"),
)  # fmt: skip
# Name of a split -> its pairs of a character and a place, and its motions.
SPLITS = {
    "training": (
        tuple((c, b) for c in CHARACTERS for b in BACKGROUNDS if (c, b) not in HELD_OUT_PAIRS),
        tuple(name for name in MOTIONS if name not in HELD_OUT_MOTIONS),
    ),
    "held-out": (HELD_OUT_PAIRS, HELD_OUT_MOTIONS),
    "all": (tuple((c, b) for c in CHARACTERS for b in BACKGROUNDS), tuple(MOTIONS)),
}


@dataclass(frozen=True)
class Actor:
    """One body in a scene: its motion, position and direction.

    Attributes:
        motion: a name in MOTIONS; seed: of the variation within a motion.
        x, y: of the feet, as shares of the frame's width and height.
        height: of the body, as a share of the frame's height.
        yaw: in degrees; 0 faces the viewer, 90 looks to the right.
        drift: sideways travel per motion cycle, as a share of the width.
        phase, speed: start, and cycles per frame.
    """

    motion: str
    seed: int
    x: float
    y: float
    height: float
    yaw: float
    drift: float
    phase: float
    speed: float


@dataclass(frozen=True)
class Scene:
    """The content of a clip; the same scene at the same size gives the same frames."""

    character: str
    background: str
    actors: tuple[Actor, ...]
    seed: int

    @property
    def caption(self) -> str:
        return caption(self.character, self.background, len(self.actors))


def caption(character: str, background: str, people: int = 1) -> str:
    """Caption in the paper's form: "an astronaut on the moon", "batman, brown background", "two robots ..."."""
    name = CHARACTERS[character].one if people == 1 else CHARACTERS[character].two
    return f"{name}{', ' if background.endswith('background') else ' '}{background}"


def captions(people: Sequence[int] = (1, 2)) -> list[str]:
    """Every caption of the world, for the given numbers of people."""
    return [caption(c, b, n) for n in people for c in CHARACTERS for b in BACKGROUNDS]


def sample_scene(rng: np.random.Generator, split: str = "training", two: float = 0.1) -> Scene:
    """Sample a scene.

    Args:
        split: a name in SPLITS: the pairs and motions of training, the held-out ones, or all of them.
        two: share of scenes with two actors.
    """
    pairs, motions = SPLITS[split]
    character, background = pairs[rng.integers(len(pairs))]
    count = 2 if rng.random() < two else 1
    centers = [rng.uniform(0.28, 0.72)] if count == 1 else [rng.uniform(0.22, 0.32), rng.uniform(0.68, 0.78)]
    actors = tuple(_sample_actor(rng, motions, x, 0.62 if count == 2 else 0.86) for x in centers)
    return Scene(character, background, actors, int(rng.integers(2**31)))


def sample_mixed_scene(rng: np.random.Generator, people: int = 2) -> tuple[Scene, tuple[str, ...]]:
    """Sample a scene of held-out motions whose actors are different characters, which training never shows together.

    Returns:
        the scene, of the first character, and the characters of its actors, from left to right.
    """
    characters = tuple(str(name) for name in rng.choice(tuple(CHARACTERS), people, replace=False))
    background = str(rng.choice(tuple(BACKGROUNDS)))
    centers = (np.arange(people) + rng.uniform(0.35, 0.65, people)) / people
    tallest = 0.62 if people == 2 else 0.5
    actors = tuple(_sample_actor(rng, HELD_OUT_MOTIONS, x, tallest) for x in centers)
    return Scene(characters[0], background, actors, int(rng.integers(2**31))), characters


def _sample_actor(rng: np.random.Generator, motions: Sequence[str], x: float, tallest: float) -> Actor:
    weights = np.array([4.0 if name == "improvise" else 1.0 for name in motions])
    motion = str(rng.choice(motions, p=weights / weights.sum()))
    height = rng.uniform(min(0.55, 0.9 * tallest), min(tallest, 0.7) if motion in ("jump", "star_jump") else tallest)
    sideways = motion in ("walk", "run", "march", "kick", "punch", "bow")
    yaw = rng.choice((-1, 1)) * rng.uniform(35, 85) if sideways and rng.random() < 0.8 else rng.uniform(-40, 40)
    drift = np.sign(yaw) * rng.uniform(0.0, 0.12) if motion in ("walk", "run", "march") else 0.0
    return Actor(
        motion, int(rng.integers(2**31)), float(x), float(rng.uniform(max(height + 0.06, 0.76), 0.97)), float(height),
        float(yaw), float(drift), float(rng.random()), float(rng.uniform(0.03, 0.07)),
    )  # fmt: skip


def _place(actor: Actor, frames: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Joints (f, 17, 3) and head centres (f, 3): x, y in pixels, z in body heights."""
    t = actor.phase + actor.speed * np.arange(frames)
    pose = MOTIONS[actor.motion](t, np.random.default_rng(actor.seed))
    joints, head = joints_in_space(pose, actor.yaw)
    size = actor.height * height
    travel = actor.drift * actor.speed * (np.arange(frames) - frames / 2)
    origin = np.stack([(actor.x + travel) * width, np.full(frames, actor.y * height)], -1)
    for points in (joints, head):
        points[..., :2] = points[..., :2] * size + (origin[:, None] if points.ndim == 3 else origin)
    return joints, head


def _keypoints(joints: np.ndarray, yaw: float, height: int, width: int) -> np.ndarray:
    """Keypoints (f, 17, 3); confidence 0 outside of the frame and on the far side of the head, else 1."""
    x, y = joints[..., 0] - 0.5, joints[..., 1] - 0.5  # a pixel's centre is at its integer coordinates
    seen = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    for part, angle in (("ear", 15), ("eye", 60)):
        if abs(yaw) > angle:
            seen[:, JOINT[f"{'left' if yaw > 0 else 'right'}_{part}"]] = False
    return np.stack([x, y, seen], -1).astype(np.float32)


def render_scene(
    scene: Scene, frames: int, height: int, width: int, characters: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Render a scene.

    Args:
        characters: of the actors; None: all are the scene's.

    Returns:
        frames (f, H, W, 3) uint8 RGB, and keypoints (f, people, 17, 3): x, y in pixels, confidence 0 or 1.
    """
    scale = 4 if min(height, width) < FINE else 2
    backdrop = Brush.blank(height, width, scale)
    BACKGROUNDS[scene.background](backdrop, height, width, np.random.default_rng(scene.seed))
    names = characters or (scene.character,) * len(scene.actors)
    bodies = [_place(actor, frames, height, width) for actor in scene.actors]
    video = np.empty((frames, height, width, 3), np.uint8)
    for index in range(frames):
        brush = Brush(backdrop.canvas.copy(), scale)
        for actor, (joints, _) in zip(scene.actors, bodies, strict=True):
            _draw_shadow(brush, actor, joints[index], height)
        for name, actor, (joints, head) in zip(names, scene.actors, bodies, strict=True):
            flutter = float(np.sin(2 * np.pi * (actor.phase + 2 * actor.speed * index)))
            draw_character(brush, CHARACTERS[name], joints[index], head[index], actor.height * height, flutter)
        video[index] = brush.frame()
    keypoints = [_keypoints(j, a.yaw, height, width) for a, (j, _) in zip(scene.actors, bodies, strict=True)]
    return video, np.stack(keypoints, 1)


def _draw_shadow(brush: Brush, actor: Actor, joints: np.ndarray, height: int) -> None:
    """The shadow on the ground, smaller the higher the feet are; on fine frames."""
    if brush.fine:
        size, ground = actor.height * height, actor.y * height
        ankles = joints[[JOINT["left_ankle"], JOINT["right_ankle"]]]
        lift = float(np.clip((ground - ankles[:, 1].max()) / (0.25 * size), 0, 1))
        spread = 0.16 * size + 0.5 * float(np.ptp(ankles[:, 0]))
        at = (ankles[:, 0].mean() + 0.04 * size, ground + 0.035 * size)
        brush.shade(at, ((1 - 0.4 * lift) * spread, (1 - 0.4 * lift) * 0.05 * size), 0.45 + 0.3 * lift)
