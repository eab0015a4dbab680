"""The one training loop: the base model's parts and both stages of the paper run through it.

To resume a run, run the same command again.
"""

import math
import os
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import set_seed
from torch import Tensor
from tqdm import tqdm

from followyourpose.common.checks import counted
from followyourpose.common.device import use_threads
from followyourpose.common.files import locked
from followyourpose.config import TrainConfig
from followyourpose.data.batch import Batch
from followyourpose.training.cache import cached_source, source_at_hand
from followyourpose.training.checks import PRECISIONS, check_inputs, shapes_of
from followyourpose.training.components import fingerprint, load_scheduler, load_tokenizer
from followyourpose.training.feed import open_feed, open_source
from followyourpose.training.lora import add_lora
from followyourpose.training.objectives import Objective, objective_class
from followyourpose.training.plan import describe_plan
from followyourpose.training.reports import Reports
from followyourpose.training.run_dir import BAD, RunDir
from followyourpose.training.state import TrainState
from followyourpose.training.stop import StopSignal
from followyourpose.training.trainable import select_trainable


def train(config: TrainConfig, dry_run: bool = False, kind: type[Objective] | None = None) -> Path:
    """Train a run from where an earlier command of it stopped, and return its folder.

    Args:
        dry_run: print the plan, and write nothing.
        kind: the objective; None: the one that the configuration names.

    Raises:
        ValueError: the settings, the data or the networks do not fit together, or another command trains the run
            (nothing has been trained then), or too many samples cannot be read, a checkpoint cannot be written, or
            `optim.max_skipped` steps in a row had no finite gradient.
        KeyboardInterrupt: after SIGTERM or SIGINT, when the step under way is saved.
    """
    check_inputs(config, dry_run)
    accelerator = _accelerator(config)
    with locked(Path(config.output)) if accelerator.is_main_process and not dry_run else nullcontext():
        return _train(config, accelerator, RunDir(config, accelerator.is_main_process), dry_run, kind)


def _train(
    config: TrainConfig, accelerator: Accelerator, run: RunDir, dry_run: bool, kind: type[Objective] | None
) -> Path:
    # ---- networks: everything frozen but the parameters that the patterns match
    shapes = shapes_of(config.init) if dry_run else None
    with nullcontext() if shapes is None else torch.device("meta"):
        objective = build_objective(config, kind, shapes)
    weights = _trained_parameters(config, objective)
    if dry_run:
        accelerator.print(describe_plan(config, objective, source_at_hand(config, objective, shapes), shapes))
        return run.path
    objective = objective.to(accelerator.device)
    frozen = _fingerprints(objective, weights)

    # ---- data
    source = cached_source(config, objective, accelerator.state) if config.data.cache else open_source(config.data)
    accelerator.print(f"{run.path}: training {counted(sum(p.numel() for p in weights.values()), 'parameter')}")

    # ---- state: a new one, or the newest checkpoint's
    state = TrainState(config, weights, len(source), accelerator.scaler)
    _resume(run, state, frozen, accelerator)
    if state.step >= config.steps:
        run.finish()
        return run.path

    # ---- the same batches whether or not the run was interrupted
    rank, ranks = accelerator.process_index, accelerator.num_processes
    feed = open_feed(config, source, state.counters["samples"], rank, ranks, tqdm.write, run.path / BAD)
    reports = Reports(config, run, accelerator, objective, state)
    if config.compile != "false":
        objective.parts["unet"].compile_as(config.compile, fullgraph=False)
    model, state.optimizer = accelerator.prepare(objective, state.optimizer)
    _run_steps(config, run, accelerator, model, state, feed, reports, frozen)
    run.finish()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return run.path


def build_objective(config: TrainConfig, kind: type[Objective] | None = None, shapes: Path | None = None) -> Objective:
    """Build the run's objective, with its networks loaded from `config.init`; `kind` is as for `train`.

    Args:
        shapes: a folder of configs to build the networks from, without a tokenizer; None: they are loaded.
    """
    kind = objective_class(config.objective) if kind is None else kind
    parts = kind.load(config, shapes)
    if config.lora.rank is not None:
        add_lora(parts["unet"], config.lora)
    if config.gradient_checkpointing:
        parts["unet"].enable_gradient_checkpointing()
    if shapes is not None:
        return kind(parts, None, None, config)
    return kind(parts, load_tokenizer(config.init), load_scheduler(config.init), config)


# ---- steps -----------------------------------------------------------------------------------------------------------


def _run_steps(config, run: RunDir, accelerator: Accelerator, model, state: TrainState, feed, reports, frozen) -> None:
    model.train()
    generator, main = torch.Generator(accelerator.device), accelerator.is_main_process
    progress = tqdm(range(state.step, config.steps), "training", disable=None if main else True, mininterval=5)
    with StopSignal(accelerator) as stop, closing(feed):
        for _ in progress:
            batches = [reports.timed(feed) for _ in range(config.optim.gradient_accumulation_steps)]
            loss, norm = _optimize(config, accelerator, model, state, batches, generator)
            state.advance(loss, norm, feed.position)

            # ---- logging and validation
            if row := reports.report(batches[0], norm):
                shown = {key: row[key] for key in ("loss", "lr", "clips_per_s", "skipped_in_all")}
                progress.set_postfix(shown)
                if main and progress.disable:  # as where the output is no terminal
                    print(f"step {state.step}/{config.steps}: {shown}")

            # ---- checkpoint
            stopping = stop.agreed()
            if state.step % config.save_every == 0 or state.step == config.steps or stopping:
                run.save(state.weights, state.average, frozen, state.rest())
            if stopping and state.step < config.steps:
                accelerator.wait_for_everyone()  # a launcher kills the others as soon as one of them ends
                raise KeyboardInterrupt(f"{run.path}: saved at step {state.step}; to go on, run the same command again")


def _optimize(
    config: TrainConfig, accelerator: Accelerator, model: Objective, state: TrainState, batches: list[Batch],
    generator: torch.Generator,
) -> tuple[float, float]:  # fmt: skip
    """Take one optimiser step over the batches that it accumulates; return its mean loss and its gradient's norm.

    Where the norm is not finite, the weights stay. It is the same in all processes, since the gradient is.
    """
    loss_sum = 0.0
    for part, batch in enumerate(batches):
        # Every random number of a step follows from these four, so a resumed run draws what an unbroken one would.
        key = (config.seed, state.step, part, accelerator.process_index)
        generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        last = part + 1 == len(batches)
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                loss = model(batch.to(accelerator.device), generator)
            accelerator.backward(loss / len(batches))
        loss_sum += loss.item() / len(batches)
    norm = float(accelerator.clip_grad_norm_(state.weights.values(), config.optim.max_grad_norm))
    if math.isfinite(norm) or accelerator.scaler:  # fp16's scaler skips such a step itself, and lowers its scale
        state.optimizer.step()
    state.optimizer.zero_grad()
    return loss_sum, norm


# ---- start and resume ------------------------------------------------------------------------------------------------


def _accelerator(config: TrainConfig) -> Accelerator:
    # With `cpu`, accelerate joins the processes that torchrun started also where there is no accelerator.
    use_threads(config.threads)
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[config.mixed_precision],
        cpu=not torch.accelerator.is_available(),
        log_with=config.trackers or None,
        project_dir=config.output,
    )
    _check_distribution(accelerator)
    set_seed(config.seed)
    return accelerator


def _check_distribution(accelerator: Accelerator) -> None:
    sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    if accelerator.distributed_type in sharded:
        raise ValueError(
            f"accelerate's distributed_type: got {accelerator.distributed_type.value}, expected plain data parallel "
            "(MULTI_GPU): what a stage trains is a small part of the network, and sharding it would save little"
        )
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    if accelerator.num_processes == 1 and on_cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "accelerate launch --cpu starts one process and leaves the others to mpirun; "
            "use torchrun --nproc_per_node N -m scripts.train CONFIG"
        )


def _trained_parameters(config: TrainConfig, objective: Objective) -> dict[str, Tensor]:
    weights = select_trainable(objective.parts, config.trainable)
    if config.lora.rank is not None and (others := [name for name in weights if ".lora_" not in name]):
        raise ValueError(f"trainable: got {others[0]}, expected a LoRA's weights alone where lora.rank is set")
    return weights


def _fingerprints(objective: Objective, weights: dict[str, Tensor]) -> dict[str, str]:
    """Fingerprints of the weights that a run does not train, by network."""
    trained = {
        name: {key.partition(".")[2] for key in weights if key.startswith(f"{name}.")} for name in objective.parts
    }
    return {name: fingerprint(part, trained[name]) for name, part in objective.parts.items()}


def _resume(run: RunDir, state: TrainState, frozen: dict[str, str], accelerator: Accelerator) -> None:
    """Bring a state to the newest readable checkpoint, where there is one."""
    for unreadable in run.set_aside_unreadable(state.check):
        accelerator.print(f"{unreadable}: cannot be read, and is left out")
    stored = run.load(frozen)
    if stored is not None:
        state.restore(*stored)
        changes = f" with {'; '.join(run.changes)}" if run.changes else ""
        accelerator.print(f"{run.path}: going on from step {state.step}{changes}")
    run.rewind_log(state.step)  # to its beginning, where a run was stopped before its first checkpoint
