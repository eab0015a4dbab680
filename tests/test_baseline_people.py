"""First Order Motion Model and Everybody Dance Now: their footage, motions, training and drawing, at 16 pixels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from followyourpose.puppets.motions import HELD_OUT_MOTIONS
from followyourpose.puppets.world import HELD_OUT_PAIRS, SPLITS, Scene, render_scene
from scripts import baseline_dance, baseline_people, baseline_warp
from scripts.baseline_people import fit, load_fitted, reference_footage, training_footage
from tests.runs import SIZE

PERSON = HELD_OUT_PAIRS[0]


@pytest.fixture(autouse=True)
def short_footage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(baseline_people, "CLIPS", 3)
    reference_footage.cache_clear()
    yield
    reference_footage.cache_clear()


def test_footage_has_motions_of_training_and_training_has_no_held_out_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes: list[Scene] = []

    def render(scene: Scene, *size: int) -> tuple[np.ndarray, np.ndarray]:
        scenes.append(scene)
        return render_scene(scene, *size)

    monkeypatch.setattr(baseline_people, "render_scene", render)
    footage = reference_footage(PERSON, SIZE)
    assert footage.frames.shape == (24, SIZE, SIZE, 3) and footage.keypoints.shape == (24, 17, 3)
    assert {(scene.character, scene.background) for scene in scenes} == {PERSON}
    assert len({scene.seed for scene in scenes}) == 1
    training_footage(20, 2, SIZE)
    assert {(scene.character, scene.background) for scene in scenes[3:]} <= set(SPLITS["training"][0])
    assert not {actor.motion for scene in scenes for actor in scene.actors} & set(HELD_OUT_MOTIONS)


def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline_people, "SAVE_EVERY", 2)

    def run(file: Path, stop: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        parts, done = nn.ModuleDict({"layer": nn.Linear(2, 2)}), []

        def update(optimisers: dict, rng: torch.Generator) -> None:
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(1)
            optimisers["layer"].zero_grad()
            parts["layer"](torch.randn(3, 2, generator=rng)).square().sum().backward()
            optimisers["layer"].step()

        return fit(file, parts, update, 6).state_dict()

    whole = run(tmp_path / "whole.safetensors", 9)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parted.safetensors", 3)
    parted = run(tmp_path / "parted.safetensors", 9)
    assert all(torch.equal(whole[key], parted[key]) for key in whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parted.safetensors", "whole.safetensors"]
    loaded = load_fitted(tmp_path / "whole.safetensors", nn.ModuleDict({"layer": nn.Linear(2, 2)})).state_dict()
    assert all(torch.equal(whole[key], loaded[key]) for key in whole)
    with pytest.raises(ValueError, match="none: no such file, expected the output of `scripts.baselines fit`"):
        load_fitted(tmp_path / "none", nn.ModuleDict())
    with pytest.raises(ValueError, match="whole.safetensors: was fitted to frames of another size"):
        load_fitted(tmp_path / "whole.safetensors", nn.ModuleDict({"layer": nn.Linear(2, 3)}))


def test_a_bone_takes_its_ends_to_the_source_and_stands_still_for_equal_poses() -> None:
    keypoints = np.random.default_rng(0).uniform(0, SIZE, (4, 17, 3))
    source, driving = baseline_warp.bones_of(keypoints[:2], SIZE), baseline_warp.bones_of(keypoints[2:], SIZE)
    grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, SIZE, SIZE], align_corners=False)[0]
    still = baseline_warp.sparse_motions(source, source, grid)
    torch.testing.assert_close(still, grid.expand_as(still), atol=1e-5, rtol=0)
    for bone in range(len(baseline_warp.BONES)):
        for end in range(2):
            moved = baseline_warp.sparse_motions(source[:1], driving[:1], driving[0, bone, end].view(1, 1, 2))
            torch.testing.assert_close(moved[0, bone, 0, 0], source[0, bone, end], atol=1e-5, rtol=0)


def test_a_heat_map_is_highest_on_its_bone() -> None:
    bones = torch.tensor([[[[-0.5, 0.0], [0.5, 0.0]]]])
    maps = baseline_warp.heat_maps(bones, torch.tensor([[[0.2, 0.0], [0.2, 0.12], [0.9, 0.0]]]))[0, 0, 0]
    assert maps[0] == 1 and maps[1] == pytest.approx(np.exp(-0.5)) and maps[2] < maps[1]


def test_first_order_motion_draws_each_pose_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline_warp.fit_warp(tmp_path, steps=2, size=SIZE, people=2)
    poses = reference_footage(PERSON, SIZE).keypoints[:3]
    frames = baseline_warp.warp(tmp_path, PERSON, poses, SIZE)
    assert frames.shape == (3, SIZE, SIZE, 3) and frames.dtype == np.uint8
    monkeypatch.setattr(baseline_warp, "fit", None)
    baseline_warp.fit_warp(tmp_path)  # nothing is left to train
    assert not np.array_equal(frames[0], baseline_warp.warp(tmp_path, PERSON, poses[[2]], SIZE)[0])


def test_a_frame_of_everybody_dance_now_depends_on_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline_dance.fit_people(tmp_path, [PERSON], steps=2, size=SIZE)
    skeleton = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    frames = baseline_dance.dance(tmp_path, PERSON, skeleton)
    assert frames.shape == (3, SIZE, SIZE, 3) and frames.dtype == np.uint8
    other = baseline_dance.dance(tmp_path, PERSON, np.stack([255 - skeleton[0], *skeleton[1:]]))
    assert not np.array_equal(frames[1], other[1])
    monkeypatch.setattr(baseline_dance, "fit", None)
    baseline_dance.fit_people(tmp_path, [PERSON])
