"""`python -m scripts.benchmark_people`: several people with words of their own, on scenes of different puppets.

Each scene has two or three characters that training never shows together, in held-out motions. It is drawn by one
sentence for all; by `people`; by `people` without soft edges; and each person alone, by their own words and skeleton,
which is the most that can be expected. Judges see each person's part of the frames.

Letters: f frames, p people, H W pixels. Keypoints are (f, p, 17, 3).
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from tqdm import tqdm

from followyourpose import FollowYourPosePipeline
from followyourpose.common.files import atomic_write
from followyourpose.common.pictures import contact_sheet, to_uint8, write_picture
from followyourpose.common.tables import markdown_table
from followyourpose.config import locate
from followyourpose.evaluation.features import ClipFeatures
from followyourpose.evaluation.metrics import pck, top1
from followyourpose.pose.detector import PuppetDetector
from followyourpose.pose.regions import shares
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.characters import CHARACTERS
from followyourpose.puppets.world import Scene, caption, render_scene, sample_mixed_scene

SIDE, FRAMES, SEED = 128, 8, 7000
SETTINGS = {"num_inference_steps": 20, "guidance_scale": 2.0, "pose_guidance": "conditional", "noise": "shared"}
HEAD = ["", "all characters right", "a character right", "place right", "PCK@0.1"]


@dataclass(frozen=True)
class Mixed:
    """A scene of different characters: its real frames (f, H, W, 3) and keypoints."""

    scene: Scene
    characters: tuple[str, ...]
    frames: np.ndarray
    keypoints: np.ndarray

    @property
    def sentence(self) -> str:
        """One sentence for all people: "a robot and a panda on the moon"."""
        *others, last = (CHARACTERS[name].one for name in self.characters)
        return caption(self.scene.character, self.scene.background).replace(
            CHARACTERS[self.scene.character].one, f"{', '.join(others)} and {last}"
        )

    @property
    def people(self) -> list[dict[str, Any]]:
        """People as the pipeline takes them; each has a caption in the form that the base model knows."""
        words = [caption(name, self.scene.background) for name in self.characters]
        return [{"prompt": text, "skeleton": self.keypoints[:, i]} for i, text in enumerate(words)]


def mixed_scenes(count: int, people: int) -> list[Mixed]:
    """Return the first scenes of a list that its seed fixes."""
    rng, scenes = np.random.default_rng(SEED), []
    for _ in range(count):
        scene, characters = sample_mixed_scene(rng, people)
        scenes.append(Mixed(scene, characters, *render_scene(scene, FRAMES, SIDE, SIDE, characters)))
    return scenes


# ---- systems: a scene and its seed -> a video (f, H, W, 3) uint8 for each person, the same where they share one ------


def one_sentence(pipe: FollowYourPosePipeline, mixed: Mixed, seed: int) -> list[np.ndarray]:
    """Draw all people by one sentence: the scene's words act everywhere."""
    return _shared(pipe, mixed, seed, mixed.sentence, scene_share=1.0)


def regions(pipe: FollowYourPosePipeline, mixed: Mixed, seed: int) -> list[np.ndarray]:
    """Draw each person by words of their own; the scene's are a caption of several people, as the base model knows."""
    return _shared(pipe, mixed, seed, caption(mixed.scene.character, mixed.scene.background, 2))


def hard_regions(pipe: FollowYourPosePipeline, mixed: Mixed, seed: int) -> list[np.ndarray]:
    """Draw as `regions`, without soft edges."""
    with mock.patch("followyourpose.pipeline.people.shares", partial(shares, soft=0)):
        return regions(pipe, mixed, seed)


def alone(pipe: FollowYourPosePipeline, mixed: Mixed, seed: int) -> list[np.ndarray]:
    """Draw each person in a video without the others."""
    return [_draw(pipe, seed, each["prompt"], people=[each]) for each in mixed.people]


def real(pipe: FollowYourPosePipeline, mixed: Mixed, seed: int) -> list[np.ndarray]:
    """Return the real frames, for the judge's own mistakes."""
    return [mixed.frames] * len(mixed.characters)


SYSTEMS: dict[str, Callable[[FollowYourPosePipeline, Mixed, int], list[np.ndarray]]] = {
    "one sentence for all": one_sentence,
    "people, without soft edges": hard_regions,
    "people": regions,
    "each person drawn alone": alone,
    "real frames": real,
}


def _shared(pipe: FollowYourPosePipeline, mixed: Mixed, seed: int, prompt: str, **how: Any) -> list[np.ndarray]:
    return [_draw(pipe, seed, prompt, people=mixed.people, **how)] * len(mixed.characters)


def _draw(pipe: FollowYourPosePipeline, seed: int, prompt: str, **how: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return to_uint8(pipe(prompt, generator=generator, num_frames=FRAMES, **SETTINGS, **how).videos[0])


# ---- judges ----------------------------------------------------------------------------------------------------------


class Judges:
    """The puppets' CLIP and detector, on each person's part of the frames."""

    def __init__(self) -> None:
        self.clip = ClipFeatures(locate("checkpoints/puppet-eval/clip"))
        self.detector = PuppetDetector.from_pretrained(locate("checkpoints/puppet-eval/detector"))
        self.pairs = [(character, background) for character in CHARACTERS for background in BACKGROUNDS]
        self.captions = self.clip.captions([caption(*pair) for pair in self.pairs])

    def __call__(self, mixed: Mixed, videos: Sequence[np.ndarray]) -> tuple[list[bool], list[bool], list[float]]:
        """Return for each person whether the character is right, whether the place is, and PCK@0.1."""
        characters, places, poses = [], [], []
        for person, (name, video) in enumerate(zip(mixed.characters, videos, strict=True)):
            parts, keypoints = person_parts(video, mixed.keypoints[:, person])
            characters.append(self.named(parts)[0] == name)
            places.append(self.named(video)[1] == mixed.scene.background)
            poses.append(pck(self.detector.detect(parts), keypoints, 0.1))
        return characters, places, poses

    def named(self, frames: np.ndarray) -> tuple[str, str]:
        """Return the character and the place of the caption nearest to frames (f, H, W, 3)."""
        return self.pairs[top1(self.clip.images(frames), self.captions)]


def person_parts(video: np.ndarray, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a person (f, 17, 3) out of frames (f, H, W, 3): squares of 1.25 times the body, enlarged to frames."""
    parts, moved = [], []
    for frame, joints in zip(video, keypoints, strict=True):
        low, high = (reduce(joints[joints[:, 2] > 0, :2], axis=0) for reduce in (np.min, np.max))
        side = 1.25 * (high - low).max()
        scale, corner = SIDE / side, (low + high) / 2 - side / 2
        matrix = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
        parts.append(
            cv2.warpAffine(frame, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        )
        moved.append(np.concatenate([(joints[:, :2] - corner) * scale, joints[:, 2:]], axis=1))
    return np.stack(parts), np.stack(moved).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=64, help="number of scenes")
    parser.add_argument("--people", type=int, default=2, choices=(2, 3), help="people in each")
    parser.add_argument("--model", default="checkpoints/puppet", help="a pipeline of the puppet world")
    parser.add_argument("--out", type=Path, default=Path("outputs/people"), help="folder for table.md and samples.png")
    args = parser.parse_args()
    pipe, judges = FollowYourPosePipeline.from_pretrained(locate(args.model)), Judges()
    pipe.set_progress_bar_config(disable=True)
    scenes, rows, samples = mixed_scenes(args.scenes, args.people), [], []
    for name, system in SYSTEMS.items():
        judged = []
        for number, mixed in enumerate(tqdm(scenes, name)):
            videos = system(pipe, mixed, SEED + number)
            judged.append(judges(mixed, videos))
            if number < 4:
                samples.append(videos[0])
        characters, places, poses = (np.array(each) for each in zip(*judged, strict=True))
        shares_right = (characters.all(1).mean(), characters.mean(), places.mean())
        rows.append([name, *(f"{100 * share:.0f} %" for share in shares_right), f"{poses.mean():.3f}"])
    args.out.mkdir(parents=True, exist_ok=True)
    write_picture(args.out / "samples.png", np.concatenate([contact_sheet(video) for video in samples]))
    table = markdown_table(HEAD, rows)
    atomic_write(args.out / "table.md", table)
    print(table)


if __name__ == "__main__":
    main()
