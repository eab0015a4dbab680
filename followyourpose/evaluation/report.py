"""Report of an evaluation: the files in its folder.

metrics.json       every number with its 95 % interval, undefined ones with reasons, definitions, settings, versions
metrics.md         the table that is printed too
videos.parquet     each video's own numbers, a row per video and set (needs pyarrow)
plots.png          each video's own numbers and their mean, by metric and set (needs matplotlib)
samples.png        the first videos: skeleton, video and, where there are any, real frames
worst.png          the videos with the lowest PCK and the lowest CS, likewise, with their numbers

Shapes: f frames, H W pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import counted
from followyourpose.common.files import atomic_file, atomic_write
from followyourpose.common.pictures import caption, evenly, reduced, stack, write_picture
from followyourpose.common.tables import markdown_table
from followyourpose.config import EvaluateConfig
from followyourpose.evaluation.measure import DEFINITIONS, METRICS, Measured
from followyourpose.evaluation.samples import Collection
from followyourpose.generation.outputs import versions
from followyourpose.pose.estimate import WEIGHTS

SETS = {"": "value", "real": "real frames", "no_pose": "without skeleton"}  # of videos, and their columns
SHOWN = 4  # videos on a picture, or by each metric of WORST
WORST = ("pck@0.1", "cs")
_SIDE = 128  # pixels: height of a picture's frames at most
NAME_WIDTH = 54  # pixels, of a row's name
_PANELS = 5  # of the plots, in a line


@dataclass(frozen=True)
class Report:
    """Results of an evaluation."""

    collection: Collection  # the samples
    videos: Sequence[np.ndarray]  # the evaluated videos, (f, H, W, 3) uint8 each
    measured: dict[str, Measured]  # name in SETS -> its numbers
    results: dict[str, Any]  # the first part of metrics.json


def write_report(folder: Path, config: EvaluateConfig, report: Report) -> None:
    """Write all of the above, and print the table; files whose package is not installed are left out."""
    write_samples(folder, report.collection, report.videos)
    worst, labels = worst_cases(report)
    write_picture(folder / "worst.png", sheet_of(report.collection, report.videos, worst, labels))
    _write_rows(folder / "videos.parquet", report)
    _write_plots(folder / "plots.png", report)
    table = format_table(report.results)
    atomic_write(folder / "metrics.md", table + "\n")
    undefined = report.measured[""].undefined
    # Last: a folder with a metrics.json is complete.
    write_metrics(folder, config, {**report.results, "undefined": undefined}, DEFINITIONS)
    print(table)
    for name, reasons in undefined.items():
        for why, count in reasons.items():
            print(f"{name} is undefined for {count} of {counted(report.results['n'], 'video')}: {why}")


def write_metrics(folder: Path, config: EvaluateConfig, results: dict[str, Any], definitions: dict[str, str]) -> None:
    """Write metrics.json: the results, with definitions, evaluator models, settings and versions."""
    detector = config.detector or WEIGHTS[config.backend]
    content = {
        **results,
        "definitions": definitions,
        "judges": {"clip": config.clip, "backend": config.backend, "detector": detector},
        "settings": asdict(config),
        "versions": versions(),
    }
    atomic_write(folder / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_samples(folder: Path, collection: Collection, videos: Sequence[np.ndarray]) -> None:
    """Write samples.png: the first of the videos, (f, H, W, 3) uint8 each."""
    shown = range(min(SHOWN, len(collection.samples)))
    labels = [f"{sample.name}: {sample.prompt}" for sample in collection.samples[: len(shown)]]
    write_picture(folder / "samples.png", sheet_of(collection, videos, shown, labels))


# ---- text -----------------------------------------------------------------------------------------------------------


def format_table(results: dict[str, Any]) -> str:
    """Return the results as Markdown: a row per metric that is defined, with its interval and the other sets."""
    first, *others = [name for name in SETS if not name or f"cs_{name}" in results]
    head = [counted(results["n"], "video"), SETS[first], "95 % interval", *(SETS[name] for name in others), ""]
    rows = []
    for name in METRICS:
        if results[name] is not None:
            interval, plain = results[f"{name}_ci95"], name.replace("@0.1", "")
            rows.append([
                name,
                format_number(results[name]),
                "{:.3f} to {:.3f}".format(*interval) if interval else "",
                *(format_number(results[f"{plain}_{other}"]) for other in others),
                DEFINITIONS[name],
            ])  # fmt: skip
    lines = [markdown_table(head, rows, aligned=True)]
    if "pck_ratio" in results:
        lines += ["", f"PCK as a share of that of real frames: {results['pck_ratio']:.3f}"]
    if "pck_no_pose_ratio" in results:
        lines[-1] += f"; without a skeleton: {results['pck_no_pose_ratio']:.3f}"
    for noise, before in results.get("flicker_before", {}).items():
        after = results["flicker_after"][noise]
        lines += ["", f"flicker with {noise} noise: {before:.2f} before stage 2, {after:.2f} after"]
    return "\n".join(lines)


def format_number(value: float | None) -> str:
    """Return a number with three decimals; an undefined one is empty."""
    return "" if value is None else f"{value:.3f}"


# ---- pictures -------------------------------------------------------------------------------------------------------


def worst_cases(report: Report) -> tuple[list[int], list[str]]:
    """Return the numbers of the videos that are worst by each metric of WORST, and a line of text for each."""
    rows, chosen = report.measured[""].rows(), {}
    for metric in WORST:
        known = [number for number, row in enumerate(rows) if row[metric] is not None]
        for number in sorted(known, key=lambda number: rows[number][metric])[:SHOWN]:
            chosen.setdefault(number, metric)
    labels = []
    for number in chosen:
        sample = report.collection.samples[number]
        values = ", ".join(f"{name} {format_number(rows[number][name]) or '-'}" for name in WORST)
        labels.append(f"{sample.name}: {sample.prompt} ({values})")
    return list(chosen), labels


def sheet_of(
    collection: Collection, videos: Sequence[np.ndarray], numbers: Sequence[int], labels: Sequence[str]
) -> np.ndarray:
    """Return a picture (height, width, 3) uint8 of videos, (f, H, W, 3) each, by number, below their labels.

    A video has a row of its skeleton, if any, one of its own and one of its real frames, if any, each with its name: at
    most 16 frames, evenly spaced, and none higher than 128 pixels.
    """
    strips = []
    for place, number in enumerate(numbers):
        sample, clips = collection.samples[number], {"video": videos[number]}
        if sample.people is not None:
            clips = {"skeleton": sample.skeleton, **clips}
        if collection.real is not None:
            clips["real"] = collection.real[number]
        rows = [_row(name, clip) for name, clip in clips.items()]
        strips += [caption(labels[place], max(row.shape[1] for row in rows)), *rows]
    return stack(strips)


def _row(name: str, clip: np.ndarray) -> np.ndarray:
    """Return frames of a clip (f, H, W, 3) side by side, behind their name."""
    frames = np.concatenate([reduced(clip[i], _SIDE) for i in evenly(len(clip))], axis=1)
    text = caption(name, NAME_WIDTH)[: len(frames)]
    return np.hstack([np.pad(text, ((0, len(frames) - len(text)), (0, 0), (0, 0)), constant_values=255), frames])


# ---- optional packages ----------------------------------------------------------------------------------------------


def rows_of(report: Report) -> list[dict[str, Any]]:
    """Return a row per set and video: set ("": the evaluated ones), video, prompt, seed, its size, and each metric."""
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
        return  # reported when the settings were checked
    rows = rows_of(report)
    kinds = {name: pyarrow.float64() for name in METRICS}  # also of a metric that is undefined for all of them
    columns = {key: pyarrow.array([row[key] for row in rows], kinds.get(key)) for key in rows[0]}
    with atomic_file(path) as partial:
        parquet.write_table(pyarrow.table(columns), partial)


def _write_plots(path: Path, report: Report) -> None:
    """Write a panel per metric: each video's number as a dot, by set; the evaluated set's number with its interval."""
    try:
        from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process
    except ImportError:
        return  # reported when the settings were checked
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
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
