"""Processes that are forked, so that nothing is imported again: by themselves, and as a launcher starts them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

import torch


def forks() -> BaseContext:
    """Return the context of processes that are forks of this one or, where that may use a GPU, of a server."""
    context = multiprocessing.get_context("forkserver" if torch.cuda.is_available() else "fork")
    context.set_forkserver_preload(["followyourpose.pipeline.pipeline", "followyourpose.training.loop"])
    return context


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
