"""The benchmark: a table of training's variants, and the same as json."""

import json
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "benchmark.py"


def run(*arguments: str, folder: Path) -> str:
    command = [sys.executable, str(SCRIPT), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_training_is_measured_by_variant(tmp_path: Path) -> None:
    small = ["--size", "tiny", "--steps", "2", "--warm-up", "1", "--batch-size", "1", "--frames", "2"]
    table = run("train", *small, "--variants", "pixels", "cached", "--json", "out/train.json", folder=tmp_path)
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert result["size"] == "tiny" and result["steps"] == 2
    assert result["batch"] == {"clips": 1, "frames": 2, "height": 64, "width": 64}
    assert list(result["variants"]) == ["pixels", "cached"]
    for name, row in result["variants"].items():
        assert row["samples_per_s"] > 0 and row["memory_mb"] > 0 and 0 <= row["data_wait"] <= 1
        assert f"\n{name} " in table
    pixels, cached = result["variants"].values()
    assert pixels["samples_per_s_ratio"] == pixels["memory_mb_ratio"] == 1
    assert cached["samples_per_s_ratio"] == cached["samples_per_s"] / pixels["samples_per_s"]
    if not torch.cuda.is_available():  # a cache that gains less than twofold is explained by where the time goes
        assert ("profile" in result) == (cached["samples_per_s_ratio"] < 2)
    if "profile" in result:
        assert abs(sum(result["profile"].values()) - 1) < 1e-6
        assert all(result["profile"][part] > 0 for part in ("VAE", "text encoder", "UNet forward", "backward", "data"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_help_is_the_manual(tmp_path: Path) -> None:
    out = run("train", "--help", folder=tmp_path)
    assert out.count("python scripts/benchmark.py train") == 2
    for flag in ("--size", "--stage", "--height", "--width", "--frames", "--steps", "--variants", "--json"):
        assert flag in out
