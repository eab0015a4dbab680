"""Processes as a launcher starts them, forked from the test's own, so that nothing is imported again."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch


def launch(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[int]:
    """Call a function in `count` processes with the variables that torchrun sets; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    environments = [
        {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(count)
    ]
    processes = [context.Process(target=_run, args=(env, function, *arguments), daemon=True) for env in environments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]


def _run(environment: dict[str, Any], function: Callable[..., Any], *arguments: Any) -> None:
    os.environ |= {name: str(value) for name, value in environment.items()}
    torch.set_num_threads(1)  # a fork has none of the threads that OpenMP counts on
    function(*arguments)
