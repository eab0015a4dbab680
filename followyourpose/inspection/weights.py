"""`followyourpose inspect` of weights: contents of a folder of them, or of one file, without loading it."""

from collections import Counter
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from followyourpose.common.checks import counted
from followyourpose.common.files import read_json

LINES = (  # of manifests
    '{"image": "a.jpg", "caption": "...", "width": 512, "height": 512, "people": [{"keypoints": [[x, y, confidence], '
    '... of 17 joints]}]} or {"video": "a.mp4", "caption": "..."}'
)


def describe(path: str | Path) -> str:
    """Return a line per .safetensors file: its component's class, its numbers of tensors and parameters, its types.

    For a single file, a line per tensor follows, with its shape.

    Raises:
        ValueError: there is no such file at `path`, or one is broken; the message names it.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{path}: no .safetensors file is there, expected one, a folder of some, or a data set: .tar shards, "
            "HD-VILA's part_N/video_clips, or a manifest.jsonl, a line for each image or clip: " + LINES
        )
    lines = []
    for file in files:
        shapes, kinds = _tensors(file)
        label = f"{file.relative_to(path) if file != path else file.name}{_class_name(file.parent)}"
        count = sum(prod(shape) for shape in shapes.values())
        lines.append(f"{label}: {counted(len(shapes), 'tensor')}, {count:,} parameters, {', '.join(sorted(kinds))}")
    if path.is_file():
        lines += [f"  {name} {tuple(shape)}" for name, shape in sorted(shapes.items())]
    return "\n".join(lines)


def _tensors(file: Path) -> tuple[dict[str, list[int]], Counter]:
    """Return shapes by name, and the number of tensors of each type, from the file's header alone."""
    try:
        with safe_open(file, "np") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}
            shapes = {name: tensor.get_shape() for name, tensor in slices.items()}
            return shapes, Counter(tensor.get_dtype() for tensor in slices.values())
    except SafetensorError as error:
        raise ValueError(f"{file}: not a .safetensors file ({error})") from error


def _class_name(folder: Path) -> str:
    """Return the class of a diffusers or transformers config beside the weights, in brackets; "" without one."""
    try:
        config = read_json(folder / "config.json")
        name = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    except (ValueError, AttributeError, TypeError):
        return ""
    return f" ({name})" if name else ""
