"""Which device networks run on."""


def torch_device(device: str | None) -> str:
    """The device of that name, or, for None, cuda where there is one, else cpu.

    Raises:
        ValueError: PyTorch has no such device here.
    """
    import torch  # late: what is wrong with a setting is told without the seconds that this takes

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: got {device!r}: {str(error).splitlines()[0]}") from error
    return name
