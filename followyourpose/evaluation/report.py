"""What an evaluation writes into its folder.

metrics.json       every number with its 95 % interval, what is undefined and why, definitions, settings, versions
metrics.md         the table that is printed too
videos.parquet     each video's own numbers, a row per video and set (needs pyarrow)
plots.png          each video's own numbers and their mean, by metric and set (needs matplotlib)
samples.png        the first videos: skeleton, video and, where there are any, real frames
worst.png          the videos with the lowest PCK and the lowest CS, likewise, with their numbers

Shapes: v videos, f frames, H W pixels.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from followyourpose.config import EvaluateConfig
from followyourpose.evaluation.measure import DEFINITIONS, METRICS, Measured
from followyourpose.evaluation.samples import Collection
from followyourpose.pose.estimate import WEIGHTS

SETS = {"": "value", "real": "real frames", "no_pose": "without skeleton"}  # of videos, and their columns
SHOWN = 4  # videos on a picture, or by each metric of WORST
WORST = ("pck@0.1", "cs")
_FRAMES, _SIDE, _LABEL = 16, 128, 14  # frames of a row, their height at most, and that of a line of text, in pixels
_PANELS = 5  # of the plots, in a line
_EXTRA = 'pip install "followyourpose[eval]"'


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        collection: what was asked for.
        videos: what is judged, (f, H, W, 3) uint8 each.
        measured: name in SETS -> its numbers.
        results: what metrics.json begins with.
    """

    collection: Collection
    videos: Sequence[np.ndarray]
    measured: dict[str, Measured]
    results: dict[str, Any]


def write_report(folder: Path, config: EvaluateConfig, report: Report) -> None:
    """Writes all of the above, and prints the table; a line says what is left out for want of a package."""
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder, report.collection, report.videos)
    worst, labels = worst_cases(report)
    cv2.imwrite(str(folder / "worst.png"), sheet_of(report.collection, report.videos, worst, labels)[..., ::-1])
    _write_rows(folder / "videos.parquet", report)
    _write_plots(folder / "plots.png", report)
    table = format_table(report.results)
    (folder / "metrics.md").write_text(table + "\n")
    undefined = {name: measured.undefined for name, measured in report.measured.items() if measured.undefined}
    # Last: a folder with a metrics.json is complete.
    write_metrics(folder, config, {**report.results, "undefined": undefined.get("", {})}, DEFINITIONS)
    print(table)
    for name, reasons in undefined.get("", {}).items():
        for why, count in reasons.items():
            print(f"{name} is undefined for {count} of {report.results['n']} videos: {why}")


def write_metrics(folder: Path, config: EvaluateConfig, results: dict[str, Any], definitions: dict[str, str]) -> None:
    """Writes metrics.json: the results, with definitions, judges, settings and versions."""
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    detector = config.detector or WEIGHTS[config.backend]
    content = {
        **results,
        "definitions": definitions,
        "judges": {"clip": config.clip, "backend": config.backend, "detector": detector},
        "settings": asdict(config),
        "versions": {"python": platform.python_version(), **versions},
    }
    (folder / "metrics.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_samples(folder: Path, collection: Collection, videos: Sequence[np.ndarray]) -> None:
    """Writes samples.png: the first of the videos, (f, H, W, 3) uint8 each."""
    shown = range(min(SHOWN, len(collection.samples)))
    cv2.imwrite(str(folder / "samples.png"), sheet_of(collection, videos, shown)[..., ::-1])


# ---- text -----------------------------------------------------------------------------------------------------------


def format_table(results: dict[str, Any]) -> str:
    """The results as a markdown table: a line per metric that is defined: interval, other sets, and what it is."""
    sets = [name for name in SETS if not name or f"cs_{name}" in results]
    rows = [[f"{results['n']} videos", *(SETS[name] for name in sets), ""]]
    rows[0].insert(2, "95 % interval")
    for name in METRICS:
        if results[name] is None:
            continue
        interval = results[f"{name}_ci95"]
        plain = name.replace("@0.1", "")
        others = [_number(results[f"{plain}_{each}"]) for each in sets[1:]]
        rows.append(
            [
                name,
                _number(results[name]),
                "{:.3f} to {:.3f}".format(*interval) if interval else "",
                *others,
                DEFINITIONS[name],
            ]
        )
    rows.insert(1, ["---"] * len(rows[0]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[-1] = 0
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    if "pck_ratio" in results:
        lines += ["", f"PCK as a share of that of real frames: {results['pck_ratio']:.3f}"]
    if "pck_no_pose_ratio" in results:
        lines[-1] += f"; without a skeleton: {results['pck_no_pose_ratio']:.3f}"
    for noise, before in results.get("flicker_before", {}).items():
        after = results["flicker_after"][noise]
        lines += ["", f"flicker with {noise} noise: {before:.2f} before stage 2, {after:.2f} after"]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


# ---- pictures -------------------------------------------------------------------------------------------------------


def worst_cases(report: Report) -> tuple[list[int], list[str]]:
    """The numbers of the videos that are worst by each metric of WORST, and a line of text for each."""
    rows, chosen = report.measured[""].rows(), {}
    for metric in WORST:
        known = [number for number, row in enumerate(rows) if row[metric] is not None]
        for number in sorted(known, key=lambda number: rows[number][metric])[:SHOWN]:
            chosen.setdefault(number, metric)
    labels = []
    for number in chosen:
        sample = report.collection.samples[number]
        values = ", ".join(f"{name} {_number(rows[number][name]) or '-'}" for name in WORST)
        labels.append(f"{sample.name}: {sample.prompt} ({values})")
    return list(chosen), labels


def sheet_of(
    collection: Collection, videos: Sequence[np.ndarray], numbers: Sequence[int], labels: Sequence[str] = ()
) -> np.ndarray:
    """A picture (height, width, 3) uint8 of videos, (f, H, W, 3) each, by number; rows as `contact_sheet` has them."""
    groups = []
    for number in numbers:
        sample, group = collection.samples[number], [videos[number]]
        if sample.people is not None:
            group.insert(0, sample.skeleton)
        if collection.real is not None:
            group.append(collection.real[number])
        groups.append(group)
    return contact_sheet(groups, labels)


def contact_sheet(groups: Sequence[Sequence[np.ndarray]], labels: Sequence[str] = ()) -> np.ndarray:
    """Groups of clips (f, H, W, 3) uint8, a clip in a row, as one picture (height, width, 3), each below its label.

    At most 16 frames of a clip are shown, evenly spaced, and none higher than 128 pixels.
    """
    strips = []
    for number, group in enumerate(groups):
        rows = [np.concatenate([_small(frame) for frame in clip[_evenly(len(clip))]], axis=1) for clip in group]
        if labels:
            line = np.full((_LABEL, max(row.shape[1] for row in rows), 3), 255, np.uint8)
            place, font = (2, _LABEL - 4), cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(line, labels[number], place, font, 0.32, (0, 0, 0), 1, cv2.LINE_AA)
            rows.insert(0, line)
        strips += rows
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate([np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips])


def _evenly(total: int) -> np.ndarray:
    return np.linspace(0, total - 1, min(total, _FRAMES)).round().astype(int)


def _small(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height <= _SIDE:
        return frame
    return cv2.resize(frame, (max(1, round(width * _SIDE / height)), _SIDE), interpolation=cv2.INTER_AREA)


# ---- what needs more packages ---------------------------------------------------------------------------------------


def rows_of(report: Report) -> list[dict[str, Any]]:
    """A row per set and video: set ("" is what is judged), video, prompt, seed, frames, height, width, each metric."""
    rows = []
    for name, measured in report.measured.items():
        for sample, size, numbers in zip(report.collection.samples, measured.sizes, measured.rows(), strict=True):
            what = {"set": name, "video": sample.name, "prompt": sample.prompt, "seed": sample.seed}
            rows.append(what | dict(zip(("frames", "height", "width"), size, strict=True)) | numbers)
    return rows


def _write_rows(path: Path, report: Report) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        print(f"{path.name} is left out: it needs pyarrow; {_EXTRA}")
        return
    rows = rows_of(report)
    kinds = {name: pyarrow.float64() for name in METRICS}  # also of a metric that is undefined for all of them
    columns = {key: pyarrow.array([row[key] for row in rows], kinds.get(key)) for key in rows[0]}
    parquet.write_table(pyarrow.table(columns), path)


def _write_plots(path: Path, report: Report) -> None:
    """A panel per metric: each video's own number as a dot, by set; the number of what is judged with its interval."""
    try:
        from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process
    except ImportError:
        print(f"{path.name} is left out: it needs matplotlib; {_EXTRA}")
        return
    shown = [name for name, metric in METRICS.items() if metric.of_each and report.results[name] is not None]
    kinds = {SETS[kind]: measured.rows() for kind, measured in report.measured.items()}
    lines = -(-len(shown) // _PANELS)
    figure = Figure(figsize=(2.4 * _PANELS, 3.2 * lines), layout="constrained")
    rng = np.random.default_rng(0)
    for number, name in enumerate(shown, 1):
        axes = figure.add_subplot(lines, _PANELS, number)
        for place, rows in enumerate(kinds.values()):
            own = [row[name] for row in rows if row[name] is not None]
            axes.plot(place + rng.uniform(-0.2, 0.2, len(own)), own, ".", alpha=0.3)
        axes.vlines(0, *report.results[f"{name}_ci95"], color="black")
        axes.plot(0, report.results[name], "_", color="black", markersize=16)
        axes.set_title(name, fontsize=9)
        axes.set_xticks(range(len(kinds)), list(kinds), rotation=20, fontsize=7)
    figure.savefig(path, dpi=100)
