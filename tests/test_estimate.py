"""Pose estimators behind one interface: the puppet detector, and the contract of every backend."""

import sys
from pathlib import Path

import numpy as np
import pytest

from followyourpose.config import locate
from followyourpose.pose.estimate import WEIGHTS, PoseEstimator, check_estimator, open_estimator
from followyourpose.puppets.world import render_scene, sample_scene
from tests.poses import person

DETECTOR = locate(WEIGHTS["puppet"])
FRAMES = np.zeros((2, 8, 8, 3), np.uint8)


def test_poses_of_a_backend_become_people() -> None:
    """Confidences in [0, 1], float32, and nobody where hardly a joint is seen: empty boxes have such poses."""
    ghost = person(confidence=0.1)
    ghost[:2, 2] = 0.9
    sure = person(confidence=1.5).astype(np.float64)
    people = PoseEstimator(lambda frames: [np.stack([sure, ghost]), np.zeros((0, 17, 3))])(FRAMES)
    assert [len(each) for each in people] == [1, 0]
    assert people[0][0].dtype == np.float32 and people[0][0][:, 2].max() == 1.0
    np.testing.assert_array_equal(people[0][0][:, :2], sure[:, :2].astype(np.float32))
    assert sure[0, 2] == 1.5  # what the backend has is left alone


@pytest.mark.parametrize("frames", [FRAMES[0], FRAMES.astype(np.float32), FRAMES[..., :1]])
def test_other_arrays_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(f, H, W, 3\) uint8"):
        PoseEstimator(lambda _: [])(frames)


def test_the_embedded_detector_finds_a_puppet_and_nobody_on_black() -> None:
    scene = sample_scene(np.random.default_rng(0), two=0)
    frames, truth = render_scene(scene, 2, 64, 64)
    people = open_estimator("puppet", DETECTOR, device="cpu")(np.concatenate([frames, np.zeros_like(frames)]))
    assert [len(each) for each in people] == [1, 1, 0, 0]
    seen = truth[0, 0, :, 2] > 0
    assert np.median(np.linalg.norm(people[0][0] - truth[0, 0], axis=-1)[seen]) < 6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("hrnet", DETECTOR), "backend: got 'hrnet', expected one of light, puppet, rtmlib, mmpose"),
        (("rtmlib", "none.onnx"), "weights: none.onnx: no such file or folder, and no name of `followyour"),
        (("puppet", Path(__file__).parent), "has no config.json, expected a puppet detector's folder"),
        (("puppet", DETECTOR, None, "none.onnx"), "boxes: none.onnx: no such file"),
        (("puppet", DETECTOR, None, __file__), "the puppet detector takes whole frames"),
        (("puppet", DETECTOR, "hrnet.py"), "only the backend mmpose has configs"),
        (("puppet", DETECTOR, None, None, "gpu"), "device: got 'gpu'"),
    ],
)
def test_unusable_arguments_are_named(arguments: tuple, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        open_estimator(*arguments)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("backend", "package", "install"),
    [
        ("rtmlib", "rtmlib", 'pip install -e ".[pose]"'),
        ("mmpose", "mmengine", 'pip install -e ".[mmpose]" && pip install --no-deps mmpose==1.3.2'),
    ],
)
def test_the_error_for_a_missing_backend_has_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, backend: str, package: str, install: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for check in (check_estimator, open_estimator):
        with pytest.raises(ValueError) as error:
            check(backend, __file__)
        assert str(error.value).startswith(f"backend {backend}: {package}") and str(error.value).endswith(install)
