"""Stage-1 data as a folder of image files with a manifest: the labels of the shards, one image per row."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import check_installed
from followyourpose.common.files import parse_json, read_json
from followyourpose.data.images import image_size, read_image
from followyourpose.data.labels import NO_LABEL, PAPER, STRINGS, Dropped, Rules, parse_people, rescaled
from followyourpose.data.manifest import json_rows

MANIFESTS = ("manifest.jsonl", "manifest.parquet")
_EXPECTED = "image, caption, and people or label"


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
        for where, row in _rows(manifest, self.dropped):
            if limit is not None and len(rows) >= limit:
                break
            image, caption, label = _fields(row, where)
            try:
                people, size = self._people(row, label)
                reason = rules.against(caption, people, size)
            except ValueError:
                reason = NO_LABEL
            if reason is None and not (self.path / image).is_file():
                reason = "without a file"
            if reason is None:
                rows.append(json.dumps([image, caption, people.tolist(), size]))
            else:
                self.dropped.add(reason, str(self.path / image))
        if not rows:
            raise ValueError(f"{manifest}: no image, expected at least one (limit: {limit}; {self.dropped})")
        self._rows = np.array(rows, STRINGS)

    def _people(self, row: dict[str, Any], label: str | None) -> tuple[np.ndarray, tuple[int, int] | None]:
        """Return the people (p, 17, 3) of a row, and the recorded (H, W)."""
        if label is not None:
            return parse_people(read_json(self.path / label))
        if isinstance(row["people"], str):
            return parse_people({**row, "people": parse_json(row["people"], "people")})
        return parse_people(row)

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


def _fields(row: Any, where: str) -> tuple[str, str, str | None]:
    """Return the image and the caption of a row, and the path of its label; None: the row has its people."""
    try:
        fields = row["image"], row["caption"].strip(), row["label"] if row.get("people") is None else None
        if not isinstance(fields[0], str) or not isinstance(fields[2], str | None):
            raise TypeError("image or label is no string")
        return fields
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: expected {_EXPECTED} ({type(error).__name__}: {error})") from error


def _rows(manifest: Path, dropped: Dropped) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of each row."""
    if manifest.suffix == ".jsonl":
        yield from json_rows(manifest, _EXPECTED, dropped)
        return
    check_installed(str(manifest), "data", "pyarrow")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        rows = (row for batch in ParquetFile(manifest).iter_batches() for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f"{manifest}: line {number}", row
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{manifest}: not a parquet file ({error})") from error
