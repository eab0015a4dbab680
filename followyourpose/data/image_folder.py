"""Stage-1 data as a folder of image files with a manifest: the labels of the shards, one image per row."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from followyourpose.common.checks import check_installed
from followyourpose.common.files import parse_json
from followyourpose.data.images import image_size, read_image
from followyourpose.data.labels import NO_LABEL, PAPER, STRINGS, Dropped, Rules, parse_people, rescaled
from followyourpose.data.manifest import json_rows

MANIFESTS = ("manifest.jsonl", "manifest.parquet")
_EXPECTED = "image, caption and people"


class ImagePoseFolder:
    """Random access to the images of `path`/manifest.jsonl or .parquet; an image is a clip of one frame.

    A row has `image` (a path within the folder), `caption`, `people` ([{"keypoints": [[x, y, confidence] * 17]}], also
    as a JSON string), and `width` and `height`, the size in pixels to which the keypoints belong.

    Raises:
        ValueError: there is no manifest, a row of it is not as above, or no image is left.
    """

    def __init__(self, path: str | Path, limit: int | None = None, rules: Rules = PAPER) -> None:
        self.path = Path(path)
        self.dropped = Dropped()  # images left out, by reason
        rows: list[str] = []
        manifest = next((self.path / name for name in MANIFESTS if (self.path / name).is_file()), None)
        if manifest is None:
            raise ValueError(f"{path}: holds no {' or '.join(MANIFESTS)}")
        for where, row in _rows(manifest, self.dropped):
            if limit is not None and len(rows) >= limit:
                break
            image, caption, people = _fields(row, where)
            try:
                people = parse_json(people, "people") if isinstance(people, str) else people
                people, size = parse_people({**row, "people": people})
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


def _fields(row: Any, where: str) -> tuple[str, str, Any]:
    """Return the image, the caption and the people of a row."""
    try:
        return row["image"] + "", row["caption"].strip(), row["people"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: expected {_EXPECTED} ({type(error).__name__}: {error})") from error


def _rows(manifest: Path, dropped: Dropped) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of each row."""
    if manifest.suffix == ".jsonl":
        yield from json_rows(manifest, dropped)
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
