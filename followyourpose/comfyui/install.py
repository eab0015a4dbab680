"""Installation of the nodes: the folder that ComfyUI reads, with example workflows, in its custom_nodes."""

from pathlib import Path

from followyourpose.common.files import atomic_write, full_disk_reported

PACK = Path(__file__).parent / "pack"
NAME = "ComfyUI-FollowYourPose"


def install(folder: Path) -> Path:
    """Write the pack into ComfyUI's folder, or its custom_nodes, and return where it lies; an earlier one is renewed.

    Raises:
        ValueError: the folder is no ComfyUI's, the pack's place holds files of others, or cannot be written.
    """
    nodes = folder / "custom_nodes" if (folder / "custom_nodes").is_dir() else folder
    if nodes.name != "custom_nodes" or not nodes.is_dir():
        raise ValueError(
            f"{folder}: got no folder of ComfyUI, expected the one that has custom_nodes in it, or that one"
        )
    target = nodes / NAME
    files = {
        file.relative_to(PACK): file for file in sorted(PACK.rglob("*")) if file.suffix in (".py", ".toml", ".json")
    }
    there = [file.relative_to(target) for file in target.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    ours = (target / "__init__.py").is_file() and b"followyourpose.comfyui" in (target / "__init__.py").read_bytes()
    if others := [str(name) for name in there if not ours or name not in files]:
        raise ValueError(f"{target}: holds {min(others)}, which is not of this package; nothing is overwritten")
    try:
        with full_disk_reported(target):
            for name, file in files.items():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                atomic_write(target / name, file.read_bytes())
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error.strerror})") from error
    return target
