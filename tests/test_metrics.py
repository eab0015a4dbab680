"""The metrics against cases computed by hand."""

import sys

import numpy as np
import pytest

from followyourpose.evaluation.metrics import (
    average_precision,
    background_consistency,
    body_mask,
    bootstrap_interval,
    border_change,
    clip_score,
    flicker,
    frame_consistency,
    frechet_distance,
    match_people,
    nobody_found,
    pck,
    psnr,
    sharpness,
    ssim,
    temporal_flickering,
    top1,
)
from followyourpose.pose.similarity import OKS_SIGMAS, object_keypoint_similarity
from followyourpose.pose.skeleton import JOINT


def person(x: float = 0.0, score: float = 1.0) -> np.ndarray:
    """A pose (17, 3) whose joints' box is 60 x 100 pixels, its left side at `x`."""
    rng = np.random.default_rng(0)
    xy = rng.uniform((0, 0), (60, 100), (17, 2))
    xy[0], xy[16] = (0, 0), (60, 100)
    return np.concatenate([xy + (x, 0), np.full((17, 1), score)], 1)


def moved(pose: np.ndarray, joints: list[int], by: float) -> np.ndarray:
    pose = pose.copy()
    pose[joints, 0] += by
    return pose


def with_nan(array: np.ndarray, *index: int) -> np.ndarray:
    """A copy whose number at `index`, or the first, is NaN."""
    array = array.astype(np.float64)
    array[index or (0,) * array.ndim] = np.nan
    return array


def precision(predicted: list[list[np.ndarray]], target: list[list[np.ndarray]]) -> float:
    return average_precision([match_people(predicted, target)])


# ---- PCK ------------------------------------------------------------------------------------------------------------


def test_pck_counts_joints_within_a_tenth_of_the_height():
    target = person()[None]
    predicted = moved(moved(target[0], [1, 2, 3], 9.9), [4, 5, 6, 7], 10.1)[None]
    assert pck(predicted, target, 0.1) == pytest.approx(13 / 17)
    assert pck(predicted, target, 0.2) == 1.0
    assert pck(predicted, target, 0.05) == pytest.approx(10 / 17)


def test_pck_ignores_joints_the_target_does_not_show_and_their_place():
    target = person()[None]
    target[0, 3] = (1e3, -1e3, 0)
    assert pck(moved(target[0], [3], 500)[None], target) == 1.0
    assert pck(moved(target[0], [4], 500)[None], target) == pytest.approx(15 / 16)


def test_a_frame_in_which_nobody_was_found_is_a_miss_and_reported():
    target = np.stack([person()] * 4)
    found = target * [1, 1, 0.5]
    found[1, :, 2] = 0  # in the right place, but not found
    found[2, :5, 2] = 0
    assert pck(found, target) == pytest.approx((17 + 0 + 12 + 17) / 68)
    assert nobody_found(found).tolist() == [False, True, False, False]
    assert nobody_found(found.reshape(2, 2, 17, 3)).sum(1).tolist() == [1, 0]
    matches = match_people(found[:, None], target[:, None])
    assert len(matches.scores) == 3 and matches.people == 4
    assert average_precision([matches]) == pytest.approx(76 / 101)  # recalls up to 3/4


def test_pck_refuses_poses_that_it_cannot_count():
    nobody = person(score=0)[None]
    with pytest.raises(ValueError, match="confidence"):
        pck(nobody, nobody)
    with pytest.raises(ValueError, match="expected"):
        pck(person(), person())


# ---- average precision ----------------------------------------------------------------------------------------------


def test_oks_falls_with_distance_in_units_of_the_joints_sigma():
    target = person()
    distance = 2 * OKS_SIGMAS[9] * np.sqrt(0.53 * 60 * 100)  # one standard deviation of a wrist
    expected = (16 + np.exp(-0.5)) / 17
    assert object_keypoint_similarity(moved(target, [9], distance), target) == pytest.approx(expected)
    assert object_keypoint_similarity(target, target) == 1.0


def test_oks_of_a_body_in_one_line_is_finite():
    target = person()
    target[:, 0] = 5
    distance = 2 * OKS_SIGMAS[0] * np.sqrt(0.53 * 100 * 100 / 3)
    assert object_keypoint_similarity(moved(target, [0], distance), target) == pytest.approx((16 + np.exp(-0.5)) / 17)


def test_ap_is_one_for_perfect_and_zero_for_far_or_no_people():
    target = [[person()], [person(), person(200)]]
    assert precision(target, target) == pytest.approx(1.0)
    assert precision([[person(900)], [person(900), person(900)]], target) == 0.0
    assert precision([[], []], target) == 0.0


def test_ap_averages_over_the_thresholds():
    # 3 of 17 joints far away: OKS 14/17 = 0.82 passes .50 to .80, which is 7 of 10 thresholds.
    assert precision([[moved(person(), [1, 2, 3], 1e4)]], [[person()]]) == pytest.approx(0.7)


def test_ap_of_a_missed_person_is_the_recall_reached():
    # Recall ends at 1/2: the 51 of 101 recalls from 0 to 0.5 have precision 1, the others 0.
    assert precision([[person()], []], [[person()], [person()]]) == pytest.approx(51 / 101)


def test_ap_pays_for_a_false_person_that_is_surer_only():
    false, right = person(900, score=0.9), person(score=0.5)
    assert precision([[right, false]], [[person()]]) == pytest.approx(0.5)
    assert precision([[right, person(900, score=0.1)]], [[person()]]) == pytest.approx(1.0)


def test_ap_ranks_people_across_frames():
    # right .9, false .8, right .7: precision 1 to recall .5, then 2/3.
    predicted = [[person(score=0.9)], [person(900, score=0.8), person(score=0.7)]]
    expected = (51 * 1.0 + 50 * 2 / 3) / 101
    assert precision(predicted, [[person()], [person()]]) == pytest.approx(expected)


def test_a_person_is_found_once_only():
    twice = [[person(score=0.9), person(score=0.8)]]
    matches = match_people(twice, [[person()]])
    assert matches.hits[:, 0].tolist() == [True, False]
    assert average_precision([matches]) == pytest.approx(1.0)  # the second is below full recall already


def test_ap_matches_each_to_the_most_similar_person_whatever_the_order():
    target = [[person(), person(15)]]
    assert precision([target[0][::-1]], target) == pytest.approx(1.0)


def test_ap_counts_the_twenty_surest_people_of_a_frame():
    false = [person(900 + i, score=0.9) for i in range(20)]
    assert precision([[person(score=0.5), *false[:19]]], [[person()]]) == pytest.approx(1 / 20)
    assert precision([[person(score=0.5), *false]], [[person()]]) == 0.0


def test_ap_leaves_out_people_without_visible_joints():
    assert precision([[person()]], [[person(), person(score=0)]]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="undefined"):
        precision([[person()]], [[]])


def test_poses_that_are_not_poses_are_refused():
    with pytest.raises(ValueError, match=r"predicted, frame 1: got \(17, 3\), expected \(p, 17, 3\)"):
        match_people([[], person()], [[person()], [person()]])
    with pytest.raises(ValueError, match="predicted: got 1 frame, expected as many as in target, 2"):
        match_people([[]], [[person()], [person()]])
    with pytest.raises(ValueError, match=r"target, frame 0: 1 of 51 .* index \(0, 3, 1\)"):
        match_people([[]], [[with_nan(person(), 3, 1)]])
    for poses in ((with_nan(person()), person()), (person(), with_nan(person(), 0, 2))):
        with pytest.raises(ValueError, match="not finite"):
            pck(*(pose[None] for pose in poses))
    with pytest.raises(ValueError, match="people: 1 of 51"):
        body_mask(with_nan(person())[None], 10, 10)


# ---- pixels ---------------------------------------------------------------------------------------------------------


def standing() -> np.ndarray:
    """A pose (17, 3) of 50 pixels that stands in a frame of 100 x 100."""
    pose = np.ones((17, 3))
    for name, index in JOINT.items():
        part = name.split("_")[-1]
        side = {"left": 1, "right": -1}.get(name.split("_")[0], 0)
        level = {"nose": 30, "eye": 29, "ear": 30, "shoulder": 38, "elbow": 47, "wrist": 55, "hip": 54, "knee": 67,
                 "ankle": 79}[part]  # fmt: skip
        reach = {"eye": 2, "ear": 5, "shoulder": 6, "elbow": 8, "wrist": 9}.get(part, 4)
        pose[index, :2] = 50 + side * reach, level
    return pose


def test_the_mask_covers_the_body_and_leaves_the_corners():
    mask = body_mask(standing()[None], 100, 100)
    for x, y in standing()[:, :2].astype(int):
        assert mask[y - 2 : y + 3, x - 2 : x + 3].all()
    assert mask[18, 50] and not mask[:, :25].any() and not mask[:, 76:].any()
    assert not body_mask(np.zeros((1, 17, 3)), 100, 100).any()


def test_flicker_is_the_change_of_the_background_alone():
    frames = np.full((3, 8, 8, 3), 100, np.uint8)
    frames[1, :, 4:] = 110  # background: 10 up, 10 down
    frames[:, :, :4] = np.random.default_rng(0).integers(256, size=(3, 8, 4, 3))
    foreground = np.zeros((3, 8, 8), bool)
    foreground[:, :, :4] = True
    assert flicker(frames, foreground) == pytest.approx(10.0)
    assert flicker(frames[[0, 0]], foreground[:2]) == 0.0


def test_flicker_leaves_out_the_background_that_the_body_uncovers():
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[0, 0, 0] = 255  # the body was here
    foreground = np.zeros((2, 4, 4), bool)
    foreground[0, 0, 0] = True
    assert flicker(frames, foreground) == 0.0


def test_flicker_does_not_wrap_around():
    frames = np.stack([np.full((2, 2, 3), 255, np.uint8), np.zeros((2, 2, 3), np.uint8)])
    assert flicker(frames, np.zeros((2, 2, 2), bool)) == 255.0
    with pytest.raises(ValueError, match="covers every pixel"):
        flicker(frames, np.ones((2, 2, 2), bool))


def still(*levels: int, side: int = 16) -> np.ndarray:
    """Frames (f, side, side, 3) uint8, each of one grey."""
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def test_temporal_flickering_is_one_less_the_share_of_change():
    assert temporal_flickering(still(7, 7, 7)) == 1.0
    assert temporal_flickering(still(0, 255, 0)) == 0.0
    assert temporal_flickering(still(100, 110, 90)) == pytest.approx(1 - 15 / 255)


def test_psnr_is_the_decibels_of_the_difference():
    pytest.importorskip("torchmetrics", reason="psnr is torchmetrics'")
    assert psnr(still(100, 100), still(105, 110)) == pytest.approx(10 * np.log10(255**2 / np.sqrt(25 * 100)))
    assert psnr(still(0), still(255)) == pytest.approx(0, abs=1e-6)
    assert psnr(still(3, 4), still(3, 5)) == np.inf


def test_sharpness_is_a_share_of_the_references_steps_in_the_foreground():
    reference = np.zeros((1, 4, 6, 3), np.uint8)
    reference[:, :, 3:] = 100  # one step to the right in each row
    inside = np.ones((1, 4, 6), bool)
    assert sharpness(reference, reference, inside) == 1
    assert sharpness(reference // 4, reference, inside) == 0.25
    assert sharpness(255 - reference, reference, inside) == 1
    inside[:, :, :3] = False  # no step is left
    with pytest.raises(ValueError, match="no step in the foreground"):
        sharpness(reference, reference, inside)
    with pytest.raises(ValueError, match=r"got \(1, 4, 6, 3\) and \(1, 4, 6\)"):
        sharpness(reference[:, 1:], reference, inside)


def test_ssim_of_flat_frames_compares_their_means():
    pytest.importorskip("torchmetrics", reason="ssim is torchmetrics'")
    c = (0.01 * 255) ** 2
    assert ssim(still(100), still(200)) == pytest.approx((2 * 100 * 200 + c) / (100**2 + 200**2 + c), abs=1e-6)
    noise = np.random.default_rng(0).integers(256, size=(2, 16, 16, 3), dtype=np.uint8)
    assert ssim(noise, noise) == pytest.approx(1.0)
    assert ssim(noise, 255 - noise) < 0


def test_frames_that_are_not_frames_are_refused():
    for metric in (
        temporal_flickering,
        lambda x: flicker(x, np.zeros(x.shape[:3], bool)),
        lambda x: border_change(x, [1]),
    ):
        for wrong in (still(1), still(1, 2)[..., :2], still(1, 2) / 255):
            with pytest.raises(ValueError, match=r"frames: got .* expected \(f, H, W, 3\) uint8 with f >= 2"):
                metric(wrong)
    with pytest.raises(ValueError, match="foreground: got"):
        flicker(still(1, 2), np.zeros((2, 16, 16), np.uint8))
    pytest.importorskip("torchmetrics", reason="psnr and ssim are torchmetrics'")
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"reference: got \(1, 16, 16, 3\), expected .* \(2, 16, 16, 3\)"):
            metric(still(1, 2), still(1))
    with pytest.raises(ValueError, match="at least 11 x 11 pixels"):
        ssim(still(1, side=10), still(1, side=10))


def test_without_torchmetrics_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)
    with pytest.raises(ValueError, match=r"pip install -e \"\.\[eval\]\""):
        psnr(still(1), still(1))


# ---- embeddings -----------------------------------------------------------------------------------------------------


def test_frame_consistency_is_the_cosine_of_neighbours():
    embeddings = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 5.0]])
    assert frame_consistency(embeddings) == pytest.approx(100 / np.sqrt(2))
    assert frame_consistency(embeddings[[0, 0]]) == pytest.approx(100)
    with pytest.raises(ValueError, match="n >= 2"):
        frame_consistency(embeddings[:1])


def test_the_variants_of_frame_consistency_differ_in_their_pairs():
    embeddings = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 5.0], [0.0, 1.0]])  # at 0, 45, 90 and 90 degrees
    half = 1 / np.sqrt(2)
    assert frame_consistency(embeddings, "consecutive") == pytest.approx(100 * (half + half + 1) / 3)
    assert frame_consistency(embeddings, "first") == pytest.approx(100 * half / 3)
    assert frame_consistency(embeddings, "all") == pytest.approx(100 * (4 * half - half + 0 + 0 + 1) / 6)
    with pytest.raises(ValueError, match="got 'last', expected one of consecutive, all, first"):
        frame_consistency(embeddings, "last")


def test_background_consistency_compares_with_the_first_and_the_previous_frame_and_cuts_at_zero():
    right, up, left = [3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    assert background_consistency(np.array([right, right, up])) == pytest.approx((1 + 0) / 2)
    assert background_consistency(np.array([right, up, up])) == pytest.approx((0 + 0.5) / 2)
    assert background_consistency(np.array([right, left])) == 0.0
    with pytest.raises(ValueError, match="n >= 2"):
        background_consistency(np.array([right]))


def test_clip_score_averages_the_frames_cosines():
    assert clip_score(np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([0.0, 7.0])) == pytest.approx(50)


def test_top1_is_the_nearest_caption_whatever_its_length():
    texts = np.array([[9.0, 9.0], [0.1, 0.0], [0.0, 50.0]])
    assert top1(np.array([[1.0, 0.1], [1.0, -0.1]]), texts) == 1


def test_frechet_distance_of_two_lines_is_that_of_their_means_and_deviations():
    a, b = np.array([[0.0], [2.0], [4.0]]), np.array([[10.0], [11.0]])
    assert frechet_distance(a, b) == pytest.approx((10.5 - 2) ** 2 + (2 - np.sqrt(0.5)) ** 2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("samples", [5, 50])
def test_frechet_distance_is_known_for_moved_and_for_wider_features(samples: int):
    """With fewer samples than features too, where the covariance has no inverse."""
    features = np.random.default_rng(0).normal(size=(samples, 12))
    mean, trace = features.mean(0), features.var(0, ddof=1).sum()
    assert frechet_distance(features, features + np.arange(12)) == pytest.approx(np.square(np.arange(12)).sum())
    assert frechet_distance(mean + 3 * (features - mean), features) == pytest.approx(4 * trace)
    with pytest.raises(ValueError, match=r"reference: got \(1, 12\), expected \(n, 12\) with n >= 2"):
        frechet_distance(features, features[:1])
    with pytest.raises(ValueError, match=r"reference: got .*, expected \(n, 12\)"):
        frechet_distance(features, features[:, 1:])


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_by_name(number: float):
    good = np.ones((3, 4))
    bad = good.copy()
    bad[1, 2] = number
    expected = r": 1 of 12 numbers are not finite, the first at index \(1, 2\)"
    for metric in (frame_consistency, background_consistency):
        with pytest.raises(ValueError, match="embeddings" + expected):
            metric(bad)
    for metric in (clip_score, top1):
        with pytest.raises(ValueError, match="image_embeddings" + expected):
            metric(bad, good[0] if metric is clip_score else good)
        with pytest.raises(ValueError, match="text_embedding"):
            metric(good, bad[1] if metric is clip_score else bad)
    for one, other, name in ((bad, good, "features"), (good, bad, "reference")):
        with pytest.raises(ValueError, match=name + expected):
            frechet_distance(one, other)


def test_embeddings_of_another_width_or_of_no_frame_are_refused():
    with pytest.raises(ValueError, match=r"text_embedding: got \(1, 5\), expected \(n, 4\)"):
        clip_score(np.ones((2, 4)), np.ones(5))
    with pytest.raises(ValueError, match="n >= 1"):
        top1(np.ones((0, 4)), np.ones((2, 4)))


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_has_its_normal_width_and_repeats():
    values = np.random.default_rng(0).normal(5, 1, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.15)
    assert (low, high) == bootstrap_interval(values)


def test_an_interval_of_any_statistic_resamples_whole_videos():
    right = match_people([[person()]], [[person()]])
    missed = match_people([[]], [[person()]])
    low, high = bootstrap_interval([right] * 8 + [missed] * 8, average_precision, rounds=200)
    assert 0.1 < low < 0.5 < high < 0.9


def test_an_interval_of_no_videos_or_of_nan_is_refused():
    with pytest.raises(ValueError, match="no videos"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="statistic: 10 of 10 numbers are not finite"):
        bootstrap_interval([np.nan], rounds=10)
