"""COCO's annotations of people's keypoints, an image per frame, and results in their form.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "keypoints": [names]}],
     "annotations": [{"image_id", "category_id", "keypoints": [x, y, v, ... 17], "bbox", ...}]}

v is 0 where a joint is not labelled, 1 where it is hidden, 2 where it is visible: confidences 0, 0.5 and 1 here.
Results, of detectors and of AlphaPose, are the list of annotations alone, with confidences. PoseTrack's files are
annotations with a "track_id". Joints are (j, 3), people (17, 3): x, y in pixels, confidence.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from followyourpose.common.files import natural_order
from followyourpose.pose.formats.layout import Layout, Person, as_coco, joints_of, mapped, note_lost, size_of, track
from followyourpose.pose.keypoints_file import ClipKeypoints, listed
from followyourpose.pose.skeleton import JOINTS, LIMBS, SEEN

_CONFIDENCES = np.array([0.0, 0.5, 1.0])  # of COCO's flags: not labelled, hidden, visible


def read_annotations(content: Mapping[str, Any], place: str, pattern: str | None = None) -> Layout:
    """Return the people of each image, the images in the natural order of their names.

    Args:
        pattern: of the names of the images to take, such as *video1*; None: all.
    """
    images: dict[Any, tuple[Any, tuple[int, int] | None]] = {}  # id -> order, size
    for index, image in enumerate(listed(content["images"], f"{place}: images")):
        at = f"{place}: images[{index}]"
        image = mapped(image, at)
        name = str(image.get("file_name", image.get("id")))
        if pattern is None or fnmatchcase(name, pattern):
            images[_id(image.get("id"), f"{at}.id")] = natural_order(name), size_of(image, at)
    if not images:
        raise ValueError(f"{place}: no image{'' if pattern is None else f' is named {pattern}'}, expected at least one")
    sizes = {size for _, size in images.values()}
    if len(sizes) > 1:
        shown = ", ".join("unknown" if size is None else f"{size[0]} x {size[1]}" for size in list(sizes)[:3])
        raise ValueError(
            f"{place}: {len(images)} images of several sizes ({shown}), expected those of one clip; choose them by "
            "name: followyourpose pose convert IN OUT --images PATTERN"
        )
    names: dict[Any, list[str]] = {}
    for index, category in enumerate(listed(content.get("categories") or [], f"{place}: categories")):
        category = mapped(category, f"{place}: categories[{index}]")
        if isinstance(category.get("keypoints"), list) and isinstance(category.get("id"), int):
            names[category["id"]] = [str(name) for name in category["keypoints"]]
    layout = Layout("COCO", [], sizes.pop(), pixels=True)
    people = people_by_image(content["annotations"], f"{place}: annotations", layout.lost, names, flags=True)
    layout.frames = [people.get(image, []) for image in sorted(images, key=lambda image: images[image][0])]
    return layout


def read_results(content: Sequence[Any], place: str) -> Layout:
    """Return the people of each image that has any, in the natural order of the images' names or numbers."""
    layout = Layout("COCO's results", [], pixels=True)
    people = people_by_image(content, place, layout.lost, {}, flags=False)
    layout.frames = [people[image] for image in sorted(people, key=lambda image: natural_order(str(image)))]
    return layout


def people_by_image(
    annotations: Any, place: str, lost: set[str], names: Mapping[Any, list[str]], flags: bool
) -> dict[Any, list[Person]]:
    """Return the people of each image by its id.

    Args:
        names: of a category's joints; flags: the third number of a joint is COCO's flag, and no confidence.
    """
    people: dict[Any, list[Person]] = {}
    for index, annotation in enumerate(listed(annotations, place)):
        at = f"{place}[{index}]"
        annotation = mapped(annotation, at)
        found = people.setdefault(_id(annotation.get("image_id"), f"{at}.image_id"), [])
        joints = joints_of(annotation.get("keypoints"), f"{at}.keypoints")
        if joints.any():
            if flags:
                joints[:, 2] = _CONFIDENCES[np.nan_to_num(joints[:, 2]).clip(0, 2).astype(int)]
            note_lost(lost, annotation)
            category = annotation.get("category_id")
            known = names.get(category) if isinstance(category, int) else None
            found.append((as_coco(joints, known, at, lost), track(annotation.get("track_id"))))
    return people


def _id(value: Any, place: str) -> int | str:
    if not isinstance(value, int | str):
        raise ValueError(f"{place}: got {value!r:.80}, expected a number or a name")
    return value


def coco_annotations(clip: ClipKeypoints) -> dict[str, Any]:
    """Return a clip as annotations: a joint below 0.3 is not labelled, up to 0.5 hidden, and above it visible."""
    size = {"width": clip.width, "height": clip.height}
    annotations = []
    for frame, people in enumerate(clip.frames):
        for number, person in enumerate(people):
            person = np.asarray(person, np.float64)
            flags = np.select([person[:, 2] > 0.5, person[:, 2] >= SEEN], [2, 1], 0)
            if not flags.any():
                continue  # COCO knows no person without a place
            low, high = person[flags > 0, :2].min(0), person[flags > 0, :2].max(0)
            joints = np.column_stack([person[:, :2].round(3), flags]) * (flags > 0)[:, None]
            annotations.append({
                "id": len(annotations) + 1, "image_id": frame + 1, "category_id": 1, "iscrowd": 0,
                "keypoints": joints.ravel().tolist(), "num_keypoints": int((flags > 0).sum()),
                "bbox": [*low.round(3).tolist(), *(high - low).round(3).tolist()],
                "area": float((high - low).prod().round(3)),
                **({} if clip.ids is None else {"track_id": clip.ids[frame][number]}),
            })  # fmt: skip
    skeleton = [[start + 1, end + 1] for start, end, _ in LIMBS]
    return {
        "images": [{"id": i + 1, "file_name": f"{i:06d}.png", **size} for i in range(len(clip.frames))],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": skeleton}],
    }
