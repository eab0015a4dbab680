"""Choice of the device, its machine's memory, and the packaging fault that stops PyTorch's users most often."""

import os
import re
from importlib.metadata import PackageNotFoundError, requires, version


def torch_device(device: str | None) -> str:
    """Return the device of that name or, for None, cuda where there is one, else cpu.

    Raises:
        ValueError: PyTorch has no such device here.
    """
    import torch  # late: settings are checked without the seconds that this takes

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: got {device!r}: {str(error).splitlines()[0]}") from error
    return name


def machine_memory() -> float:
    """Return the bytes of the machine's memory; infinity where the system does not report them."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")


def torchvision_mismatch() -> str | None:
    """Return a line on a torchvision built for another torch, which diffusers cannot import; None: no fault."""
    try:
        needs, torchvision, torch = requires("torchvision") or [], version("torchvision"), version("torch")
    except PackageNotFoundError:
        return None
    built_for = next((match[1] for need in needs if (match := re.match(r"torch\s*\(?==\s*([\w.]+)", need))), None)
    if built_for is None or torch.partition("+")[0] == built_for:
        return None
    return (
        f"torchvision {torchvision} was built for torch {built_for}, but torch {torch} is installed; install a "
        "torchvision for it, or uninstall torchvision, which nothing here needs"
    )
