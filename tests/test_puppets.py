"""The puppet world: its pictures, labels, files and losses."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from followyourpose.config import REPOSITORY, TrainConfig
from followyourpose.pose.skeleton import JOINT, body_height
from followyourpose.puppets.backgrounds import BACKGROUNDS
from followyourpose.puppets.brush import FINE, Brush
from followyourpose.puppets.characters import CHARACTERS, draw_character
from followyourpose.puppets.dataset import write_dataset
from followyourpose.puppets.motions import HELD_OUT_MOTIONS, LENGTH, MOTIONS, joints_in_space
from followyourpose.puppets.objectives import Locate, rotate_and_scale
from followyourpose.puppets.styles import STYLES
from followyourpose.puppets.world import HELD_OUT_PAIRS, SPLITS, Scene, caption, captions, render_scene, sample_scene
from followyourpose.training.objectives import OBJECTIVES, Denoise, objective_class


def scenes(count: int, **options) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng, **options) for _ in range(count)]


def test_the_world_has_enough_characters_places_and_motions():
    assert len(CHARACTERS) >= 10 and len(BACKGROUNDS) >= 8 and len(MOTIONS) >= 8


def test_the_same_scene_gives_the_same_frames():
    scene = scenes(1)[0]
    first, second = render_scene(scene, 3, 64, 64), render_scene(scene, 3, 64, 64)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


def test_training_never_shows_what_is_held_out():
    for scene in scenes(400):
        assert (scene.character, scene.background) not in HELD_OUT_PAIRS
        assert all(actor.motion not in HELD_OUT_MOTIONS for actor in scene.actors)


def test_held_out_scenes_show_nothing_else():
    for scene in scenes(50, split="held-out"):
        assert (scene.character, scene.background) in HELD_OUT_PAIRS
        assert all(actor.motion in HELD_OUT_MOTIONS for actor in scene.actors)


def test_all_scenes_are_trainings_and_the_held_out_ones():
    pairs, motions = SPLITS["all"]
    assert set(pairs) == set(SPLITS["training"][0]) | set(HELD_OUT_PAIRS) and set(motions) == set(MOTIONS)


def test_captions_have_the_papers_form():
    assert caption("an astronaut", "on the moon") == "an astronaut on the moon"
    assert caption("batman", "brown background") == "batman, brown background"
    assert caption("a robot", "in the forest", people=2) == "two robots in the forest"


@pytest.mark.parametrize("name", MOTIONS)
def test_limbs_keep_their_length_and_feet_their_ground(name):
    t = np.linspace(0, 2, 40)
    joints, _ = joints_in_space(MOTIONS[name](t, np.random.default_rng(1)), yaw=50)
    for side in ("left", "right"):
        arm = joints[:, JOINT[f"{side}_elbow"]] - joints[:, JOINT[f"{side}_shoulder"]]
        np.testing.assert_allclose(np.linalg.norm(arm, axis=-1), LENGTH["upper_arm"], atol=1e-9)
    lowest = joints[:, [JOINT["left_ankle"], JOINT["right_ankle"]], 1].max(1)
    assert (lowest < 1e-9).all() and lowest.max() > -0.05  # y points down: never below the ground, at times on it


@pytest.mark.parametrize("name", MOTIONS)
def test_motions_are_smooth(name):
    t = 0.05 * np.arange(60)
    joints, _ = joints_in_space(MOTIONS[name](t, np.random.default_rng(2)), yaw=0)
    assert np.linalg.norm(np.diff(joints, axis=0), axis=-1).max() < 0.3  # body heights per frame


def test_yaw_turns_the_face_to_the_right_of_the_image():
    pose = MOTIONS["walk"](np.zeros(1), np.random.default_rng(0))
    joints, head = joints_in_space(pose, yaw=80)
    assert joints[0, JOINT["nose"], 0] > head[0, 0]
    assert joints[0, JOINT["left_shoulder"], 2] < joints[0, JOINT["right_shoulder"], 2]  # its left side is far away


def test_keypoints_lie_on_the_drawn_body():
    """Where the boy has a visible joint there is no purple, which is what lies behind him and no part of him."""
    hits = []
    for scene in scenes(60, two=0):
        scene = Scene("a boy", "purple background", scene.actors, scene.seed)
        frames, people = render_scene(scene, 1, 128, 128)
        for x, y, seen in people[0, 0]:
            if seen:
                red, green, blue = (int(v) for v in frames[0, round(y), round(x)])
                hits.append(not blue > red > green)
    assert np.mean(hits) > 0.97


def test_hidden_and_outside_joints_have_no_confidence():
    for scene in scenes(40):
        _, people = render_scene(scene, 2, 64, 64)
        x, y, seen = np.moveaxis(people, -1, 0)
        outside = (x < 0) | (y < 0) | (x > 63) | (y > 63)
        assert not seen[outside].any() and set(np.unique(seen)) <= {0.0, 1.0}


def test_the_background_stands_still():
    for scene in scenes(10, two=0):
        frames, people = render_scene(scene, 4, 64, 64)
        still = (frames == frames[:1]).all((0, 3))
        assert still.mean() > 0.3
        assert body_height(people[0, 0]) > 16


# ---- fine frames -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_scene_is_the_same_at_every_size(background: str):
    scene = replace(scenes(1)[0], background=background)
    (small, near), (large, far) = (render_scene(scene, 1, side, side) for side in (64, 128))
    halved = cv2.resize(large[0], (64, 64), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(halved - small[0]).mean() < 20  # other scenes of the place: 30 and more
    np.testing.assert_allclose((far[..., :2] + 0.5) / 2, near[..., :2] + 0.5, atol=1e-4)


def test_details_are_for_frames_that_are_large_enough():
    """Small frames are what they were before there were details: the shipped networks know no others."""

    def inked(side: int) -> float:
        scene = replace(scenes(1, two=0)[0], character="a girl", background="yellow background")
        frames, _ = render_scene(scene, 1, side, side)
        return float((frames.max(-1) < 60).mean())

    assert inked(FINE - 2) < 0.002 < 0.01 < inked(FINE)


def test_every_face_and_costume_is_another():
    scene = replace(scenes(1, two=0)[0], background="brown background")
    drawn = [render_scene(replace(scene, character=name), 1, 128, 128)[0].astype(int) for name in CHARACTERS]
    nearest = [min(np.abs(a - b).mean() for b in drawn if b is not a) for a in drawn]
    assert min(nearest) > 2


def test_a_fine_background_stands_still_while_capes_and_hair_move():
    for character in ("superman", "a girl"):
        scene = replace(scenes(1, two=0)[0], character=character)
        still = replace(scene.actors[0], drift=0.0, speed=0.0)
        standing, _ = render_scene(replace(scene, actors=(still,)), 2, 128, 128)
        assert np.array_equal(standing[0], standing[1])
        frames, _ = render_scene(scene, 6, 128, 128)
        assert (frames == frames[:1]).all((0, 3)).mean() > 0.3
    hems = []
    for flutter in (-1.0, 1.0):
        brush = Brush.blank(128, 128, 2)
        joints, head = joints_in_space(MOTIONS["walk"](np.zeros(1), np.random.default_rng(0)), yaw=60)
        for points in (joints, head):
            points[..., :2] = points[..., :2] * 100 + (64, 120)
        draw_character(brush, CHARACTERS["superman"], joints[0], head[0], 100, flutter)
        hems.append(brush.frame())
    assert (hems[0] != hems[1]).any()


def test_a_shadow_lies_at_the_feet():
    scene = replace(scenes(1, two=0)[0], background="yellow background")
    frames, people = render_scene(scene, 1, 128, 128)
    actor, feet = scene.actors[0], people[0, 0, [JOINT["left_ankle"], JOINT["right_ankle"]], 0].mean()
    light = frames[0, round(128 * (actor.y + 0.055 * actor.height))].sum(-1)  # of the row below the soles
    assert light[round(feet)] < 0.9 * min(light[2], light[-3])


def test_a_data_set_is_the_same_for_the_same_seed_and_has_both_formats(tmp_path: Path):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, images=3, clips=2, seed=5, clip_frames=4)
    shards = [tmp_path / name / "images" / "00000.tar" for name in ("a", "b")]
    assert shards[0].read_bytes() == shards[1].read_bytes()
    with tarfile.open(shards[0]) as tar:
        names = tar.getnames()
        label = json.loads(tar.extractfile("00000000.json").read())
    assert names[:3] == ["00000000.jpg", "00000000.txt", "00000000.json"]
    assert label["width"] == label["height"] == 128 and np.shape(label["people"][0]["keypoints"]) == (17, 3)
    rows = [json.loads(line) for line in (tmp_path / "a" / "clips" / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and (tmp_path / "a" / "clips" / rows[0]["video"]).is_file() and rows[0]["caption"]


def test_a_data_set_is_never_written_over_another(tmp_path: Path):
    write_dataset(tmp_path, images=1)
    with pytest.raises(ValueError, match="is there already"):
        write_dataset(tmp_path, images=1)


def test_asking_for_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="--images 0 --clips 0"):
        write_dataset(tmp_path)


# ---- styles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STYLES)
def test_a_style_redraws_each_frame_by_itself(name: str):
    frames = np.concatenate([render_scene(scene, 1, 64, 64)[0] for scene in scenes(8)])
    drawn = STYLES[name].draw(frames)
    assert drawn.shape == frames.shape and drawn.dtype == np.uint8
    assert np.array_equal(drawn[1:2], STYLES[name].draw(frames[1:2]))
    assert np.abs(drawn.astype(int) - frames).mean() > 20  # it looks quite different


def test_a_blueprint_has_no_colour_but_blue():
    frames, _ = render_scene(scenes(1)[0], 1, 64, 64)
    red, green, blue = np.moveaxis(STYLES["blueprint"].draw(frames).astype(int), -1, 0)
    assert (blue >= green).all() and (green >= red).all()


def test_a_data_set_in_a_style_has_the_same_scenes_and_captions_that_name_it(tmp_path: Path):
    labels = []
    for name, style in (("plain", None), ("drawn", "blueprint")):
        write_dataset(tmp_path / name, images=2, clips=1, clip_frames=2, style=style)
        with tarfile.open(tmp_path / name / "images" / "00000.tar") as tar:
            labels.append([tar.extractfile(f"00000001.{end}").read() for end in ("json", "txt", "jpg")])
    (plain, caption, image), (drawn, its_caption, its_image) = labels
    assert plain == drawn and image != its_image and its_caption == caption + b", as a blueprint"
    manifest = json.loads((tmp_path / "drawn" / "clips" / "manifest.jsonl").read_text())
    assert manifest["caption"].endswith(", as a blueprint")


def test_an_unknown_style_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="style: got 'oil', expected one of blueprint"):
        write_dataset(tmp_path, images=1, style="oil")


def test_a_caption_in_a_style_fits_the_text_encoder():
    """Words beyond the encoder's 20 tokens are cut off, and the style would be the first to go."""
    tokenizer = CLIPTokenizer.from_pretrained(REPOSITORY / "checkpoints" / "puppet" / "tokenizer")
    for style in STYLES.values():
        assert max(len(tokenizer(text + style.suffix).input_ids) for text in captions((1, 2))) <= 20


# ---- objectives ------------------------------------------------------------------------------------------------------


def test_a_rotation_moves_pixels_and_keypoints_together() -> None:
    """A dot per image, at a keypoint; the frame is not square."""
    places = torch.tensor([[30.0, 10.0], [12.0, 20.0], [40.0, 5.0]])
    images, people = torch.zeros(3, 3, 32, 48), torch.zeros(3, 1, 17, 3)
    people[:, 0, 4] = torch.cat([places, torch.ones(3, 1)], -1)
    for image, (x, y) in zip(images, places.int().tolist(), strict=True):
        image[:, y - 1 : y + 2, x - 1 : x + 2] = 1
    moved, joints = rotate_and_scale(images, people, torch.tensor([30.0, -20.0, -30.0]), torch.tensor([1.2, 0.8, 1.2]))
    brightest = moved[:, 0].flatten(1).argmax(1)
    found = torch.stack([brightest % 48, brightest // 48], -1)
    assert (found - joints[:, 0, 4, :2])[:2].norm(dim=-1).max() < 1.5
    assert joints[:, 0, 4, 2].tolist() == [1, 1, 0], "the third one left the frame at the top"
    same, still = rotate_and_scale(images, people, torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(same, images)
    torch.testing.assert_close(still, people)


def test_objectives_are_classes_by_name_and_the_loops_own_need_no_puppets() -> None:
    assert objective_class("denoise") is Denoise and objective_class("locate") is Locate
    assert [objective_class(name).needs for name in ("autoencode", "contrast")] == [("vae",), ("clip",)]
    assert OBJECTIVES.keys() == set(get_args(TrainConfig.__annotations__["objective"]))
