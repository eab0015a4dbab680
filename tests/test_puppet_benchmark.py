"""The puppet benchmark: a name means the same prompts, motions and seeds for ever."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from followyourpose.data.video_io import read_frames
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.puppets import benchmark
from followyourpose.puppets.benchmark import BENCHMARKS, benchmark_scenes, digest, held_out_scenes, write_benchmark
from followyourpose.puppets.world import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, render_scene


def test_the_list_never_changes_silently():
    scenes = benchmark_scenes("puppet-bench-1")
    assert len(scenes) == 1024 and scenes == benchmark_scenes("puppet-bench-2")
    assert digest(scenes, 1000) == "41d4313d2d1f93f3605ee1cfab97f50ffa45df40fa5802ac1210c05f0cb4c107"
    assert {(scene.character, scene.background) for scene in scenes} == set(HELD_OUT_PAIRS)
    assert {actor.motion for scene in scenes for actor in scene.actors} == set(HELD_OUT_MOTIONS)
    assert scenes[:64] == held_out_scenes(1000, 64)  # the quick split


def test_its_motions_never_change_silently():
    """Nose, left wrist and right ankle in the fourth frame of 64 pixels."""
    expected = [
        ("a panda on the moon", [(34.42, 20.24), (40.79, 38.81), (31.57, 57.82)]),
        ("a policeman in the desert", [(32.44, 16.17), (30.20, 28.79), (28.42, 44.70)]),
        ("hulk on the sea", [(24.13, 11.14), (43.85, 29.45), (24.17, 57.88)]),
    ]
    for scene, (caption, places) in zip(held_out_scenes(1000, 3), expected, strict=True):
        _, people = render_scene(scene, 8, 64, 64)
        assert scene.caption == caption
        np.testing.assert_allclose(people[3, 0, [0, 9, 16], :2], places, atol=0.02)


def test_a_list_of_another_digest_is_refused(monkeypatch: pytest.MonkeyPatch):
    small = replace(BENCHMARKS["puppet-bench-1"], num_videos=3, digest=digest(held_out_scenes(1000, 3), 1000))
    monkeypatch.setitem(BENCHMARKS, "small", small)
    assert len(benchmark_scenes("small", 2)) == 2
    with pytest.raises(ValueError, match="small: got 4 videos, expected 1 to 3"):
        benchmark_scenes("small", 4)
    with pytest.raises(ValueError, match="benchmark: got 'puppet-bench-3', expected one of puppet-bench-2, "):
        benchmark_scenes("puppet-bench-3")
    monkeypatch.setattr(benchmark, "held_out_scenes", lambda seed, count: held_out_scenes(seed + 1, count))
    with pytest.raises(ValueError, match="small: its scenes have SHA-256 .*, expected .* could not be compared"):
        benchmark_scenes("small")


def test_on_disk_it_has_prompts_skeletons_real_frames_and_seeds(tmp_path: Path):
    folder = write_benchmark(tmp_path / "bench", "puppet-bench-1", 2, size=32)
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    scenes = held_out_scenes(1000, 2)
    assert [(row["prompt"], row["seed"]) for row in rows] == [(scenes[0].caption, 1000), (scenes[1].caption, 1001)]
    frames, people = render_scene(scenes[1], 8, 32, 32)
    clip = read_keypoints(folder / rows[1]["skeleton"])
    assert np.array_equal(read_frames(folder / rows[1]["real"]), frames)
    assert (clip.width, clip.height, len(clip.frames)) == (32, 32, 8)
    np.testing.assert_allclose(np.stack(clip.frames), people, atol=1e-3)
