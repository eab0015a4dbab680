"""Accuracy of a pose estimator on annotated images: COCO's keypoint evaluation, with pycocotools as its judge.

Shapes: p people found in an image, q annotated ones. People are (17, 3): x, y in pixels of the image, confidence.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.files import natural_order, read_json
from followyourpose.evaluation.metrics.poses import MAX_FOUND
from followyourpose.pose.formats.layout import joints_of, mapped, table
from followyourpose.pose.keypoints_file import listed
from followyourpose.pose.similarity import best_pairs
from followyourpose.pose.skeleton import JOINTS, NUM_JOINTS

DEFINITIONS = {
    "ap": "average precision over OKS .50:.05:.95, by pycocotools",
    "ap50": "average precision at OKS .50",
    "ar": "average recall over OKS .50:.05:.95",
    "pck@0.1": "share of the annotated joints within 0.1 of the longer side of their person's box",
    "missed": "annotated people without a pose of OKS .50 or more",
    "doubled": "second poses of OKS .50 or more of one person",
    "others": "poses of nobody annotated, who may be people without annotated joints",
}
_FOUND = 0.5  # OKS from which a pose is that person's
_NEAR = 0.1  # of the longer side of a person's box


@dataclass(frozen=True)
class Annotations:
    """Annotated images."""

    coco: Any  # pycocotools' COCO
    category: int  # number of the people's category in it
    images: dict[int, Path]  # number of an image -> its file, in the natural order of their names
    people: dict[int, list[dict[str, Any]]]  # number of an image -> the annotations of that category

    @property
    def total(self) -> int:
        """Number of people with annotated joints."""
        return sum(map(_counts, (person for people in self.people.values() for person in people)))


def read_annotated(file: Path, folder: Path) -> Annotations:
    """Read COCO keypoint annotations of the images in a folder.

    Raises:
        ValueError: the file is none, has other joints than COCO's, or an image is missing; the message names the place.
    """
    content, place = mapped(read_json(file), str(file)), str(file)
    rows = {key: listed(content.get(key), f"{place}: {key}") for key in ("images", "annotations", "categories")}
    rows = {key: [mapped(row, f"{place}: {key}[{i}]") for i, row in enumerate(each)] for key, each in rows.items()}
    categories = [row.get("id") for row in rows["categories"] if row.get("keypoints") == list(JOINTS)]
    if len(categories) != 1 or not isinstance(categories[0], int):
        raise ValueError(
            f"{place}: categories: got {len(categories)} with the 17 joints of COCO in order, expected one"
        )
    names = {row.get("id"): row.get("file_name") for row in rows["images"]}
    for number, name in names.items():
        if not isinstance(number, int) or not isinstance(name, str) or not (folder / name).is_file():
            raise ValueError(
                f"{place}: image {number!r:.40}: {folder / str(name)}: no such file; give its folder, images="
            )
    people: dict[int, list[dict[str, Any]]] = {number: [] for number in names}
    for index, row in enumerate(rows["annotations"]):
        if row.get("category_id") == categories[0]:
            _check_person(row, f"{place}: annotations[{index}]", people)
            people[row["image_id"]].append(row)
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    images = {
        number: folder / names[number] for number in sorted(names, key=lambda number: natural_order(names[number]))
    }
    return Annotations(coco, categories[0], images, people)


def _check_person(row: dict[str, Any], place: str, images: Mapping[int, Any]) -> None:
    """Check the keys of an annotation that the judge reads, and add those that may be left out."""
    if row.get("image_id") not in images:
        raise ValueError(f"{place}.image_id: got {row.get('image_id')!r:.40}, expected the id of an image")
    joints = joints_of(row.get("keypoints"), f"{place}.keypoints")
    if joints.shape != (NUM_JOINTS, 3):
        raise ValueError(f"{place}.keypoints: got {len(joints)} joints, expected {NUM_JOINTS}")
    for key, shape in (("bbox", (4,)), ("area", ())):
        if (got := table(row.get(key), f"{place}.{key}")).shape != shape or not np.isfinite(got).all():
            raise ValueError(
                f"{place}.{key}: got {row.get(key)!r:.40}, expected {'four numbers' if shape else 'a number'}"
            )
    row["num_keypoints"] = int((joints[:, 2] > 0).sum())
    row["iscrowd"] = int(bool(row.get("iscrowd")))


def judge(truth: Annotations, found: Mapping[int, Sequence[np.ndarray]]) -> dict[str, float]:
    """Return the numbers of `DEFINITIONS` of the people (17, 3) found in each image, by the image's number.

    A pose's score is the mean confidence of its joints; the 20 surest of an image count, as by COCO.
    """
    ranked = {image: sorted(found.get(image, []), key=_score, reverse=True)[:MAX_FOUND] for image in truth.images}
    numbers, similarity = _coco_scores(truth, ranked)
    counts = {"near": 0, "joints": 0, "missed": 0, "doubled": 0, "others": 0}
    for image, poses in ranked.items():
        people = truth.people[image]
        oks = np.reshape(similarity.get((image, truth.category), []), (len(poses), len(people)))
        known = [number for number, person in enumerate(people) if _counts(person)]
        for key, count in _of_image(poses, [people[number] for number in known], oks[:, known]).items():
            counts[key] += count
    near, joints = counts.pop("near"), counts.pop("joints")
    return {**numbers, "pck@0.1": near / max(joints, 1), **counts}


def _coco_scores(
    truth: Annotations, ranked: Mapping[int, Sequence[np.ndarray]]
) -> tuple[dict[str, float], Mapping[tuple[int, int], Any]]:
    """Return average precision and recall, and the OKS (p, q) of each image and category that has both."""
    from pycocotools.cocoeval import COCOeval

    rows = [
        {"image_id": image, "category_id": truth.category, "keypoints": pose.ravel().tolist(), "score": _score(pose)}
        for image, poses in ranked.items()
        for pose in poses
    ]
    if not rows:  # which pycocotools does not take
        return dict.fromkeys(("ap", "ap50", "ar"), 0.0), {}
    with redirect_stdout(io.StringIO()):
        scores = COCOeval(truth.coco, truth.coco.loadRes(rows), "keypoints")
        scores.params.imgIds, scores.params.catIds = list(truth.images), [truth.category]
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return {key: float(scores.stats[index]) for key, index in (("ap", 0), ("ap50", 1), ("ar", 5))}, scores.ious


def _of_image(poses: Sequence[np.ndarray], people: Sequence[dict[str, Any]], oks: np.ndarray) -> dict[str, int]:
    """Count an image's joints and those that are near their places, and its people missed, doubled and others.

    `oks` (p, q) is of the poses (17, 3), the surest first, and the annotated people.
    """
    pairs = best_pairs(oks)  # pose -> person
    found = [pose for pose, person in pairs.items() if oks[pose, person] >= _FOUND]
    second = [pose for pose in range(len(poses)) if pose not in found and (oks[pose] >= _FOUND).any()]
    near = 0
    joints = [np.reshape(person["keypoints"], (NUM_JOINTS, 3)) for person in people]
    for pose, person in pairs.items():
        distance = np.linalg.norm(poses[pose][:, :2] - joints[person][:, :2], axis=-1)
        near += int((distance <= _NEAR * max(people[person]["bbox"][2:]))[joints[person][:, 2] > 0].sum())
    return {
        "near": near, "joints": int(sum((each[:, 2] > 0).sum() for each in joints)), "missed": len(people) - len(found),
        "doubled": len(second), "others": len(poses) - len(found) - len(second),
    }  # fmt: skip


def _score(pose: np.ndarray) -> float:
    return float(pose[:, 2].mean())


def _counts(person: Mapping[str, Any]) -> bool:
    """Whether an annotated person has joints, and is no crowd."""
    return bool(person["num_keypoints"]) and not person["iscrowd"]
