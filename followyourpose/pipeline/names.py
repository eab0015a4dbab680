"""Names that a caller of the pipeline gives, a path, a download or a hub id -> local folders and files."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from followyourpose.hub.files import weights_in
from followyourpose.hub.resolve import is_hub_id, resolve
from followyourpose.models.loading import weights_file

Name = str | Path

# Arguments of diffusers for downloads; with one of them diffusers downloads, and not hub/.
_DOWNLOAD = {"cache_dir", "force_download", "proxies", "local_files_only", "token", "hf_token"}


def resolved(
    name: Name, key: str, revision: str | None = None, variant: str | None = None, inside: str | None = None
) -> Path:
    """Return the local folder or file of a path, a name of a download or a hub id.

    Args:
        key: the argument, for messages.
        revision: of a hub id, in place of "@revision"; variant: of its weights.
        inside: path of a file in it; None: itself.

    Raises:
        ValueError: none of the three leads anywhere.
    """
    place = str(name)
    if is_hub_id(place):
        place, _, own = place.partition("@")
        revision = revision or own
        place = f"{place}/{inside}" if inside else place
        return resolve(f"{place}@{revision}" if revision else place, key, variant=variant)
    return resolve(Path(place) / inside if inside else place, key, variant=variant)


def left_to_diffusers(name: Name, arguments: Collection[str]) -> bool:
    """Whether arguments of diffusers' own downloads are given for a hub id."""
    return bool(_DOWNLOAD & set(arguments)) and is_hub_id(name)


def weights_at(name: Name, key: str, usual: str, arguments: dict[str, Any]) -> Path:
    """Return the file of weights at a name; `subfolder`, `weight_name` and `revision` are taken out of the arguments.

    Args:
        key: the argument, for messages; usual: name of the file, where a folder has several.

    Raises:
        ValueError: nothing is there, or no such file.
    """
    inside = "/".join(filter(None, (arguments.pop(part, None) for part in ("subfolder", "weight_name"))))
    return weights_file(resolved(name, key, arguments.pop("revision", None), inside=inside or None), usual)


def only_variant(folder: Path, given: Collection[str]) -> str | None:
    """Return the variant of a folder's weights where its first component without plain ones has one; None: all have.

    Args:
        given: names of components that are not loaded from it.
    """
    for part in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in given):
        if (variant := weights_in(file.name for file in part.iterdir())[1]) is not None:
            return variant
    return None
