"""Stage-1 data as a folder of image files with a manifest: the labels of the shards, one image per row."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import check_installed
from followyourpose.common.files import read_json
from followyourpose.data.image_pose import image_size, read_image
from followyourpose.data.labels import PAPER, STRINGS, Dropped, Rules, parse_people, rescaled

MANIFESTS = ("manifest.jsonl", "manifest.parquet")


class ImagePoseFolder:
    """Random access to the images of `path`/manifest.jsonl or .parquet; an image is a clip of one frame.

    A row has `image` (a path within the folder), `caption`, `people` ([{"keypoints": [[x, y, confidence] * 17]}], also
    as a JSON string) or else `label` (the path of a JSON file with it), and `width` and `height`, the size in pixels to
    which the keypoints belong.

    Attributes:
        dropped: number of images left out, by reason.

    Raises:
        ValueError: there is no manifest, a row of it is not as above, or no image is left.
    """

    def __init__(self, path: str | Path, limit: int | None = None, rules: Rules = PAPER) -> None:
        self.path = Path(path)
        self.dropped = Dropped()
        rows: list[str] = []
        manifest = next((self.path / name for name in MANIFESTS if (self.path / name).is_file()), None)
        if manifest is None:
            raise ValueError(f"{path}: holds no {' or '.join(MANIFESTS)}")
        for number, row in enumerate(_rows(manifest), 1):
            if limit is not None and len(rows) >= limit:
                break
            image, caption, people, size = self._parse(row, f"{manifest}: line {number}")
            reason = rules.against(caption, people, size)
            if reason is None and not (self.path / image).is_file():
                reason = "without a file"
            if reason is None:
                rows.append(json.dumps([image, caption, people.tolist(), size]))
            else:
                self.dropped.add(reason, str(self.path / image))
        if not rows:
            raise ValueError(f"{manifest}: no image, expected at least one (limit: {limit}; {self.dropped})")
        self._rows = np.array(rows, STRINGS)

    def _parse(self, row: Any, where: str) -> tuple[str, str, np.ndarray, tuple[int, int] | None]:
        try:
            image, caption, people = row["image"], row["caption"], row.get("people")
            if not isinstance(image, str) or not isinstance(caption, str):
                raise TypeError("image or caption is no string")
            label: Mapping = row
            if people is None:
                label = read_json(self.path / row["label"])
            elif isinstance(people, str):
                label = {**row, "people": json.loads(people)}
            return image, caption.strip(), *parse_people(label)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where}: expected image, caption, and people or label ({type(error).__name__}: {error})"
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def num_frames(self, index: int) -> int:
        return 1

    def name(self, index: int) -> str:
        """Return the image's path."""
        return str(self.path / json.loads(self._rows[index])[0])

    def label(self, index: int, frames: Sequence[int]) -> tuple[str, np.ndarray]:
        """Return the caption, and the keypoints (p, 17, 3): x, y in pixels of the image, and confidence."""
        image, caption, people, size = json.loads(self._rows[index])
        people = np.array(people, np.float32).reshape(-1, 17, 3)
        actual = image_size(self.path / image, self.name(index))
        return caption, rescaled(people, size and tuple(size), actual)

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        """Return the image as frames (1, H, W, 3) uint8 RGB."""
        return read_image(Path(self.name(index)), self.name(index))


def _rows(manifest: Path) -> Iterator[Any]:
    if manifest.suffix == ".jsonl":
        with open(manifest, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{manifest}: line {number}: not JSON ({error})") from error
        return
    check_installed(str(manifest), "data", "pyarrow")
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        for batch in ParquetFile(manifest).iter_batches():
            yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise ValueError(f"{manifest}: not a parquet file ({error})") from error
