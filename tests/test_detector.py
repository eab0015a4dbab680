"""The keypoint detector: targets, decoding, loss, and that it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from followyourpose.pose.detector import PuppetDetector, decode_heatmaps, keypoint_loss, target_heatmaps
from followyourpose.puppets.world import render_scene, sample_scene


def small() -> PuppetDetector:
    torch.manual_seed(0)
    return PuppetDetector(channels=(8, 16, 16, 16)).eval()


def scattered(people: int = 1, height: int = 48, width: int = 64) -> torch.Tensor:
    """Keypoints (4, people, 17, 3) well inside the frame, all visible."""
    generator = torch.Generator().manual_seed(0)
    xy = 8 + torch.rand(4, people, 17, 2, generator=generator) * (torch.tensor([width, height]) - 16)
    return torch.cat([xy, torch.ones(4, people, 17, 1)], -1)


def test_decoding_a_target_gives_back_its_keypoints():
    keypoints = scattered()
    heat = target_heatmaps(keypoints, (48, 64), sigma=2.0)
    found = decode_heatmaps(torch.logit(heat, eps=1e-6))
    assert heat.shape == (4, 17, 24, 32)
    assert (found[..., :2] - keypoints[:, 0, :, :2]).abs().max() < 0.25  # pixels: an eighth of a cell
    assert (found[..., 2] > 0.7).all()


def test_an_absent_joint_has_an_empty_heatmap():
    keypoints = scattered()
    keypoints[0, 0, 3, 2] = 0
    heat = target_heatmaps(keypoints, (48, 64))
    assert heat[0, 3].max() == 0 and heat[0, 4].max() > 0.7
    assert target_heatmaps(keypoints[:, :0], (48, 64)).max() == 0


def test_two_people_share_a_heatmap_and_padding_changes_nothing():
    keypoints = scattered(2)
    both = target_heatmaps(keypoints, (48, 64))
    single = [target_heatmaps(keypoints[:, i : i + 1], (48, 64)) for i in range(2)]
    assert torch.equal(both, torch.maximum(*single))
    padded = torch.cat([keypoints, torch.zeros(4, 1, 17, 3)], 1)
    assert torch.equal(target_heatmaps(padded, (48, 64)), both)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (33, 50)])
def test_any_size_gives_half_size_heatmaps_and_keypoints_in_the_frame(size):
    height, width = size
    with torch.no_grad():
        logits = small()(torch.zeros(1, 3, height, width))
    assert logits.shape == (1, 17, -(-height // 2), -(-width // 2))
    found = small().detect(np.zeros((3, height, width, 3), np.uint8), batch_size=2)
    assert found.shape == (3, 17, 3)
    assert (found[..., 0] <= width).all() and (found[..., 1] <= height).all() and (found[..., :2] >= -1).all()


def test_keypoints_are_in_pixels_of_the_frame_whatever_its_size(monkeypatch):
    """The network sees 64 pixels; a frame twice as large has its pixel centres at 2 x + 0.5."""
    seen, keypoints = [], scattered(height=64)

    def forward(self: PuppetDetector, images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape))
        return torch.logit(target_heatmaps(keypoints, (64, 64)), eps=1e-6)

    monkeypatch.setattr(PuppetDetector, "forward", forward)
    found = small().detect(np.zeros((4, 128, 128, 3), np.uint8))
    assert seen == [(4, 3, 64, 64)]
    np.testing.assert_allclose(found[..., :2], 2 * keypoints[:, 0, :, :2].numpy() + 0.5, atol=0.5)


def test_detect_refuses_other_arrays():
    with pytest.raises(ValueError, match="uint8"):
        small().detect(np.zeros((1, 64, 64, 3), np.float32))


def test_the_loss_refuses_keypoints_of_another_form():
    logits = torch.zeros(4, 17, 24, 32)
    with pytest.raises(ValueError, match="keypoints"):
        keypoint_loss(logits, scattered()[:, 0], (48, 64))
    with pytest.raises(ValueError, match="logits"):
        keypoint_loss(logits, scattered(), (64, 64))


def test_the_loss_is_least_at_the_target():
    keypoints = scattered(2)
    perfect = torch.logit(target_heatmaps(keypoints, (48, 64)), eps=1e-6)
    best = keypoint_loss(perfect, keypoints, (48, 64))
    assert best < keypoint_loss(perfect.flip(-1), keypoints, (48, 64))
    assert best < keypoint_loss(torch.full_like(perfect, -4.0), keypoints, (48, 64))


def test_it_learns_where_a_few_puppets_have_their_joints():
    """Memorises four frames: enough to see that gradients reach every layer and that the loss leads to keypoints."""
    rng = np.random.default_rng(1)
    scenes = [render_scene(sample_scene(rng, two=0), 1, 64, 64) for _ in range(4)]
    frames, people = np.concatenate([s[0] for s in scenes]), np.concatenate([s[1] for s in scenes])
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.manual_seed(0)
    detector = PuppetDetector(channels=(16, 24, 32, 48))
    optimizer = torch.optim.Adam(detector.parameters(), 3e-3)
    for _ in range(60):
        loss = detector.loss(images, torch.from_numpy(people))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.parameters())
    distance = np.linalg.norm(detector.eval().detect(frames)[..., :2] - people[:, 0, :, :2], axis=-1)
    assert np.mean(distance[people[:, 0, :, 2] > 0] < 3) > 0.9


def test_a_saved_detector_detects_the_same(tmp_path: Path):
    frames = np.random.default_rng(0).integers(256, size=(2, 64, 64, 3), dtype=np.uint8)
    small().save_pretrained(tmp_path)
    np.testing.assert_array_equal(
        PuppetDetector.from_pretrained(tmp_path).eval().detect(frames), small().detect(frames)
    )
