"""The metrics against independent implementations, on random data, to 1e-6."""

import contextlib
import io
from collections.abc import Callable
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from followyourpose.evaluation import metrics
from followyourpose.pose.similarity import OKS_SIGMAS

SCORES = (0.25, 0.5, 0.75)  # few, so that there are ties

Frames = list[list[np.ndarray]]


def agrees(value: float) -> object:
    return pytest.approx(value, rel=1e-6, abs=1e-6)


# ---- poses ----------------------------------------------------------------------------------------------------------


def coco_area(pose: np.ndarray) -> float:
    """The area that OKS is given here: 0.53 of the visible joints' box, no side below a third of the other."""
    sides = np.ptp(pose[pose[:, 2] > 0, :2], axis=0) if pose[:, 2].any() else np.zeros(2)
    return float(0.53 * np.prod(np.maximum(sides, max(sides.max() / 3, 1))))


def coco_precision(predicted: Frames, target: Frames) -> float:
    """AP of `COCOeval` for all areas; people without a visible joint have no keypoints and no box."""
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools, the reference of average precision")
    from pycocotools.cocoeval import COCOeval

    def listed(frames: Frames, describe: Callable[[np.ndarray], dict]) -> list[dict]:
        everyone = [(frame, pose) for frame, people in enumerate(frames) for pose in people]
        return [
            {"id": number, "image_id": frame, "category_id": 1, "keypoints": pose.ravel().tolist(), **describe(pose)}
            for number, (frame, pose) in enumerate(everyone, start=1)
        ]

    truth, found = coco.COCO(), coco.COCO()
    there = listed(target, lambda pose: {
        "num_keypoints": int((pose[:, 2] > 0).sum()), "area": coco_area(pose), "bbox": [0, 0, 0, 0], "iscrowd": 0,
    })  # fmt: skip
    seen = listed(predicted, lambda pose: {"score": pose[:, 2].mean(), "area": 1.0})
    images = [{"id": frame} for frame in range(len(target))]
    with contextlib.redirect_stdout(io.StringIO()):
        for api, annotations in ((truth, there), (found, seen)):
            api.dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
            api.createIndex()
        judge = COCOeval(truth, found, "keypoints")
        judge.params.kpt_oks_sigmas = OKS_SIGMAS
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    return float(judge.eval["precision"].mean())


def crowd(rng: np.random.Generator, frames: int, most: int) -> tuple[Frames, Frames]:
    """Frames of people found and people there: with missing joints, unseen people, doubles, strangers and ties."""
    predicted, target = [], []
    for _ in range(frames):
        there, found = [], []
        for _ in range(rng.integers(5)):
            size, place = rng.uniform(20, 80, 2), rng.uniform(0, 60, 2)
            pose = np.concatenate([place + size * rng.random((17, 2)), np.ones((17, 1))], 1)
            pose[rng.random(17) < rng.choice([0, 0.3, 0.9, 1.0], p=[0.3, 0.3, 0.3, 0.1]), 2] = 0
            there.append(pose)
            for _ in range(rng.choice([0, 1, 2, most])):
                moved = pose[:, :2] + rng.normal(size=(17, 2)) * rng.choice([0.5, 2, 5, 12])
                found.append(np.concatenate([moved, np.full((17, 1), rng.choice(SCORES))], 1))
        for _ in range(rng.integers(3)):
            found.append(np.concatenate([rng.uniform(0, 100, (17, 2)), np.full((17, 1), rng.choice(SCORES))], 1))
        predicted.append([found[i] for i in rng.permutation(len(found))])
        target.append(there)
    return predicted, target


@pytest.mark.parametrize(("seed", "most"), [(0, 3), (1, 3), (2, 3), (3, 12), (4, 12)])
def test_average_precision_is_that_of_coco(seed: int, most: int) -> None:
    predicted, target = crowd(np.random.default_rng(seed), frames=10, most=most)
    assert (most == 12) == (max(map(len, predicted)) > 20)
    expected = coco_precision(predicted, target)
    assert 0.05 < expected < 0.95
    assert metrics.average_precision([metrics.match_people(predicted, target)]) == agrees(expected)
    one_by_one = [metrics.match_people([p], [t]) for p, t in zip(predicted, target, strict=True)]
    assert metrics.average_precision(one_by_one) == agrees(expected)


def test_of_two_equally_similar_people_cocos_choice_is_taken() -> None:
    """The detection in the middle takes the last person; the order decides whether the less confident one is right."""
    person = np.concatenate([np.random.default_rng(0).integers(100, size=(17, 2)), np.ones((17, 1))], 1)
    left, right = person, person + (8, 0, 0)
    middle, surely_right = person + (4, 0, -0.1), right - (0, 0, 0.5)
    expected = {}
    for order, target in {"left last": [[right, left]], "right last": [[left, right]]}.items():
        expected[order] = coco_precision([[middle, surely_right]], target)
        ours = metrics.average_precision([metrics.match_people([[middle, surely_right]], target)])
        assert ours == agrees(expected[order]), order
    assert expected["left last"] > expected["right last"]


@pytest.mark.parametrize("threshold", [0.05, 0.1])
def test_pck_counts_joint_by_joint(threshold: float) -> None:
    rng = np.random.default_rng(0)
    target = np.concatenate([rng.uniform(0, 100, (20, 17, 2)), rng.integers(2, size=(20, 17, 1))], -1)
    found = target + np.concatenate([rng.normal(0, 6, (20, 17, 2)), np.ones((20, 17, 1))], -1)
    right = counted = 0
    for f in range(20):
        ys = [y for _, y, seen in target[f] if seen]
        for (x, y, _), (to_x, to_y, seen) in zip(found[f], target[f], strict=True):
            counted += seen
            right += seen and ((x - to_x) ** 2 + (y - to_y) ** 2) ** 0.5 <= threshold * (max(ys) - min(ys))
    assert metrics.pck(found, target, threshold) == agrees(right / counted)


# ---- embeddings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def embeddings() -> np.ndarray:
    """Of 9 frames, (9, 24) float32: alike, but some at more than a right angle to others."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(9, 24)) + 0.2 * rng.normal(size=24)).astype(np.float32)


def cosines(*sides: np.ndarray) -> np.ndarray:
    """torchmetrics' cosine of each with each: (n, d), (m, d) -> (n, m)."""
    functional = pytest.importorskip("torchmetrics.functional", reason="needs torchmetrics, the reference of cosines")
    tensors = [torch.from_numpy(side).double() for side in sides]
    return functional.pairwise_cosine_similarity(*tensors, zero_diagonal=False).numpy()


def test_frame_consistency_is_the_mean_of_torchmetrics_cosines(embeddings: np.ndarray) -> None:
    cosine = cosines(embeddings)
    expected = {
        "consecutive": np.mean([cosine[i, i + 1] for i in range(8)]),
        "all": np.mean([cosine[i, j] for i in range(9) for j in range(i)]),
        "first": np.mean([cosine[0, i] for i in range(1, 9)]),
    }
    for pairs in metrics.FC_PAIRS:
        assert metrics.frame_consistency(embeddings, pairs) == agrees(100 * expected[pairs])


def test_background_consistency_is_vbenchs_mean_of_cosines(embeddings: np.ndarray) -> None:
    cosine = cosines(embeddings)
    assert (np.diag(cosine, 1) < 0).any() and (cosine[0] < 0).any()
    expected = np.mean([(max(0, cosine[i, i - 1]) + max(0, cosine[i, 0])) / 2 for i in range(1, 9)])
    assert metrics.background_consistency(embeddings) == agrees(expected)


class GivenFeatures(torch.nn.Module):
    """A model and its processor for torchmetrics: an image (1, 1, d) and a text of numbers are their own features."""

    config = SimpleNamespace()

    def forward(self, text: list[str] | None = None, images: list[torch.Tensor] | None = None, **_: object) -> dict:
        if images is not None:
            return {"pixel_values": torch.stack(images)[:, 0, 0]}
        return {
            "input_ids": torch.tensor([[float(n) for n in t.split()] for t in text]),
            "attention_mask": torch.ones(len(text), 1),
        }

    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.double()

    def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ids.double()


def test_clip_score_is_that_of_torchmetrics(embeddings: np.ndarray) -> None:
    multimodal = pytest.importorskip("torchmetrics.functional.multimodal", reason="needs torchmetrics, its reference")
    text = np.round(embeddings.mean(0), 2)
    captions = [" ".join(map(str, text))] * len(embeddings)
    model = GivenFeatures()
    expected = multimodal.clip_score(
        list(torch.from_numpy(embeddings)[:, None, None]), captions, lambda: (model, model)
    )
    assert 0 < expected < 100
    assert metrics.clip_score(embeddings, text) == agrees(float(expected))


def test_the_nearest_caption_has_the_largest_of_torchmetrics_cosines(embeddings: np.ndarray) -> None:
    for seed in range(20):
        texts = np.random.default_rng(seed).normal(size=(7, 24)).astype(np.float32)
        assert metrics.top1(embeddings, texts) == cosines(embeddings, texts).mean(0).argmax()


@pytest.mark.parametrize("samples", [(200, 300), (8, 40)], ids=["many", "fewer than features"])
def test_frechet_distance_is_that_of_torchmetrics(samples: tuple[int, int]) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid", reason="needs torchmetrics, the reference of FID")
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(16, 16))
    features, reference = rng.normal(size=(samples[0], 16)) @ mix, rng.normal(0.3, 1.5, size=(samples[1], 16))
    given = torch.nn.Identity()
    given.num_features = 16
    metric = fid.FrechetInceptionDistance(feature=given)
    metric.update(torch.from_numpy(reference), real=True)
    metric.update(torch.from_numpy(features), real=False)
    assert metrics.frechet_distance(features, reference) == agrees(float(metric.compute()))
    assert metrics.frechet_distance(reference, features) == agrees(float(metric.compute()))


# ---- pixels ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def videos() -> tuple[np.ndarray, np.ndarray]:
    """Two of the same shape, (4, 20, 24, 3) uint8, the second like the first."""
    rng = np.random.default_rng(0)
    smooth = [cv2.GaussianBlur(rng.integers(256, size=(20, 24, 3), dtype=np.uint8), (5, 5), 0) for _ in range(4)]
    noise = rng.normal(0, 20, (4, 20, 24, 3))
    return np.stack(smooth), np.clip(smooth + noise, 0, 255).astype(np.uint8)


def test_flicker_is_the_mean_over_every_background_pixel(videos: tuple[np.ndarray, np.ndarray]) -> None:
    frames = videos[0].astype(int)
    body = np.random.default_rng(1).random((4, 20, 24)) < 0.3
    changes = [
        abs(frames[f + 1, y, x, c] - frames[f, y, x, c])
        for f in range(3) for y in range(20) for x in range(24) for c in range(3)
        if not body[f, y, x] and not body[f + 1, y, x]
    ]  # fmt: skip
    assert metrics.flicker(videos[0], body) == agrees(np.mean(changes))


def test_changes_of_whole_frames_are_opencvs(videos: tuple[np.ndarray, np.ndarray]) -> None:
    change = [cv2.absdiff(a, b).mean() for a, b in zip(videos[0][:-1], videos[0][1:], strict=True)]
    assert metrics.temporal_flickering(videos[0]) == agrees((255 - np.mean(change)) / 255)
    assert metrics.border_change(videos[0], [2]) == agrees((change[1], (change[0] + change[2]) / 2))


def test_psnr_is_that_of_opencv(videos: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("torchmetrics", reason="psnr is torchmetrics'")
    assert metrics.psnr(*videos) == agrees(np.mean([cv2.PSNR(a, b) for a, b in zip(*videos, strict=True)]))


def test_ssim_is_the_papers_formula_with_scipys_gaussians(videos: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("torchmetrics", reason="ssim is torchmetrics'")
    ndimage = pytest.importorskip("scipy.ndimage", reason="needs SciPy, whose gaussians the reference takes")

    def mean(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, 1.5, radius=5, axes=(1, 2))[:, 5:-5, 5:-5]

    x, y = (video.astype(np.float64) for video in videos)
    m_x, m_y = mean(x), mean(y)
    s_x, s_y, s_xy = mean(x * x) - m_x**2, mean(y * y) - m_y**2, mean(x * y) - m_x * m_y
    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * m_x * m_y + c_1) * (2 * s_xy + c_2) / ((m_x**2 + m_y**2 + c_1) * (s_x + s_y + c_2))
    assert 0.1 < similarity.mean() < 0.95
    assert metrics.ssim(*videos) == agrees(similarity.mean())


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_the_bootstrap_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs SciPy, the reference of the bootstrap")
    values = np.random.default_rng(0).exponential(size=40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=500, confidence_level=0.9, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert metrics.bootstrap_interval(values, level=0.9, rounds=500, seed=3) == agrees(tuple(expected))
