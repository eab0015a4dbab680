"""Runners of units of work: processes of this machine, Ray's actors, or this task of a Slurm array.

Done units are skipped, so there is nothing to schedule: to go on after any stop, run the same command again.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from followyourpose.common.checks import check_at_least, check_installed

RUNNERS = ("local", "ray", "slurm")
_REPOSITORY = Path(__file__).resolve().parents[1]


class Job(Protocol):
    """Work to do on every unit; a frozen dataclass, since it travels to the processes."""

    def is_done(self, unit: Any) -> bool: ...

    def open(self) -> Callable[[Any], None]:
        """Return the function that does a unit; called once per process, so that a model is loaded once."""


def run(job: Job, units: Sequence[Any], runner: str = "local", workers: int = 1, gpus: float = 0) -> None:
    """Do the units that are not done.

    Args:
        runner: "local"; "ray": on the cluster that RAY_ADDRESS names, or one that is started here; "slurm": this task's
            part, by processes of its node.
        workers: processes or actors, a core each.
        gpus: per actor, for Ray to hand out.

    Raises:
        ValueError: a unit cannot be done, or was done with other settings; or the runner is not there.
        ChildProcessError: a process was killed.
    """
    check_at_least("--workers", workers)
    check_at_least("--gpus", gpus, 0)
    if runner == "ray":
        check_installed("--runner ray", "ray", "ray")
    part = slurm_part(units) if runner == "slurm" else units
    todo = [unit for unit in part if not job.is_done(unit)]
    print(f"{len(units)} units, {len(part)} of them here, {len(part) - len(todo)} done before")
    if todo:
        finished = _by_ray(job, todo, workers, gpus) if runner == "ray" else _by_processes(job, todo, workers)
        with closing(finished), tqdm(finished, "units", len(todo), disable=None) as bar:
            for _ in bar:
                pass


def slurm_part(units: Sequence[Any], environment: Mapping[str, str] = os.environ) -> Sequence[Any]:
    """Return this array task's range of the units, by Slurm's variables.

    Raises:
        ValueError: this is no task of an array, or the array is not whole.
    """
    try:
        task, first, count = (int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT"))
    except (KeyError, ValueError) as error:
        raise ValueError(f"--runner slurm: {error} is not set; expected to run in sbatch --array=0-99") from error
    if not 0 <= task - first < count:
        raise ValueError(
            f"--runner slurm: task {task} of {count} from {first}, expected an array without gaps, as --array=0-99; "
            "submit all of it again, since done units are skipped"
        )
    task -= first
    return units[len(units) * task // count : len(units) * (task + 1) // count]


# ---- processes -------------------------------------------------------------------------------------------------------


def _by_processes(job: Job, units: Sequence[Any], workers: int) -> Generator[None, None, None]:
    # A core each; and sums of as many parts everywhere, so that every runner writes the same bytes.
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(min(workers, len(units)), multiprocessing.get_context("spawn"), _begin)
    try:
        for future in as_completed([pool.submit(_do, job, unit) for unit in units]):
            yield future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker was killed, perhaps for want of memory; run the same command again, with fewer --workers"
        ) from error
    finally:
        # Wait for the workers, which finish their units: a pool still open when the interpreter ends is woken by it
        # without a lock, and may complain of its closed pipe behind the error.
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Make a worker end with its run, however that ends: a pool's worker waits for a killed one for ever."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_opened = cache(lambda job: job.open())


def _do(job: Job, unit: Any) -> None:
    _opened(job)(unit)


# ---- Ray -------------------------------------------------------------------------------------------------------------


class _Actor:
    """Worker of one unit per batch; its errors are data, since Ray wraps exceptions in pages of its own."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        try:
            for unit in batch["unit"]:
                _do(self.job, pickle.loads(unit))
        except (ValueError, OSError) as error:
            return {"error": [str(error)]}
        return {"error": [""]}


def _by_ray(job: Job, units: Sequence[Any], workers: int, gpus: float) -> Generator[None, None, None]:
    import ray
    import ray.data

    path = os.pathsep.join([str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    started = not ray.is_initialized()
    if started:
        ray.init(runtime_env={"env_vars": environment}, log_to_driver=False)
    try:
        rows = ray.data.from_items([{"unit": pickle.dumps(unit)} for unit in units])
        done = rows.map_batches(
            _Actor,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(units))),
            num_gpus=gpus,
        )
        for row in done.iter_rows():
            if row["error"]:
                raise ValueError(row["error"])
            yield None
    except ray.exceptions.RayError as error:
        raise ChildProcessError(f"--runner ray: {str(error).strip().splitlines()[0]}") from error
    finally:
        if started:
            ray.shutdown()
