"""Choice of device, dtype, threads and memory pages, the machine's memory, and the packages that users stumble over.

PyTorch is imported late: settings are checked without the seconds that this takes.
"""

import logging
import math
import os
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A thread that has no work spins for as many rounds, a few microseconds, before it sleeps. libgomp's own number is 300
# times as large, and where another program needs the cores, threads that spin keep those that work from running.
SPINS = 10_000
CGROUPS = Path("/sys/fs/cgroup")


def prepare_process() -> None:
    """Let OpenMP's threads sleep while they wait, and be no more than the cores; take large tensors in large pages.

    Of Linux's large pages a step touches hundreds of times fewer; where the kernel grants none, nothing changes. This
    sets environment variables that PyTorch reads when it is imported, so it acts before that alone. Variables that are
    set stay as they are.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # of every OpenMP; libgomp prefers the number
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def hide_torchvision_hints() -> None:
    """Keep transformers from asking for torchvision, which nothing here needs; its other messages stay."""
    logging.getLogger("transformers.utils.import_utils").addFilter(_no_torchvision_hint)


def _no_torchvision_hint(record: logging.LogRecord) -> bool:
    return "requires torchvision (not installed)" not in str(record.msg)


def use_threads(threads: int | None) -> None:
    """Let PyTorch compute with so many threads in this process; None: as many as it has."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Return the number of cores that this process may use, by its affinity and a container's limit (`--cpus`).

    Args:
        cgroups: the folder of the process's cgroup, of version 2 or 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if (file := cgroups / "cpu.max").exists():
            quota, period = file.read_text(encoding="ascii").split()
        else:
            folder = cgroups / "cpu"
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        share = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroups, or "max": no limit
        return cores
    return min(cores, share) if share > 0 else cores  # version 1 writes -1 for no limit


def torch_device(device: str | None) -> str:
    """Return the device of that name or, for None, the accelerator (cuda, mps, xpu, ...) where there is one, else cpu.

    Of several processes that a launcher started on one machine, each has its own accelerator.

    Raises:
        ValueError: PyTorch has no such device here.
    """
    import torch

    name = device or "cpu"
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None and accelerator is not None:
        name = accelerator.type
        if "LOCAL_RANK" in os.environ:
            name += f":{int(os.environ['LOCAL_RANK']) % torch.accelerator.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: got {device!r}: {str(error).splitlines()[0]}") from error
    return name


def torch_dtype(dtype: str, device: str) -> "torch.dtype":
    """Return the dtype of that name or, for auto, the fastest one that a device computes well in.

    That is bfloat16 on an accelerator that has it, float16 on others, and float32 on a CPU.
    """
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.float32
    if kind == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = kind == "xpu"  # older Apple GPUs lack it
    return torch.bfloat16 if has_bfloat16 else torch.float16


def machine_memory() -> float:
    """Return the bytes of the machine's memory; infinity where the system does not report them."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")


def installed_version(package: str) -> str | None:
    """Return a package's version; None: it is not installed, as this one in a bare checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torchvision_mismatch() -> str | None:
    """Return a line on a torchvision built for another torch, which diffusers cannot import; None: no fault."""
    torchvision, torch = installed_version("torchvision"), installed_version("torch")
    if torchvision is None or torch is None:
        return None
    needs = requires("torchvision") or []
    built_for = next((match[1] for need in needs if (match := re.match(r"torch\s*\(?==\s*([\w.]+)", need))), None)
    if built_for is None or torch.partition("+")[0] == built_for:
        return None
    return (
        f"torchvision {torchvision} was built for torch {built_for}, but torch {torch} is installed; install a "
        "torchvision for it, or uninstall torchvision, which nothing here needs"
    )
