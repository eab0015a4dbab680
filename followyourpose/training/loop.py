"""The one training loop: the base model's parts and both stages of the paper run through it.

To resume a run, run the same command again.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from torch import Tensor
from tqdm import tqdm

from followyourpose.config import TrainConfig
from followyourpose.data.batch import Batch
from followyourpose.training.cache import cached_source, source_at_hand
from followyourpose.training.checks import PRECISIONS, SCHEDULES, check_machine
from followyourpose.training.components import fingerprint, load_scheduler, load_tokenizer
from followyourpose.training.feed import open_feed, open_source
from followyourpose.training.first_batch import draw_first_batch
from followyourpose.training.launch import is_one_of_several
from followyourpose.training.lora import add_lora
from followyourpose.training.objectives import OBJECTIVES, Objective
from followyourpose.training.plan import describe_plan
from followyourpose.training.run_dir import BAD, FIRST_BATCH, VALIDATION, RunDir
from followyourpose.training.stop import StopSignal
from followyourpose.training.trainable import select_trainable
from followyourpose.training.validation import Validation


def train(config: TrainConfig, dry_run: bool = False, kind: type[Objective] | None = None) -> Path:
    """Trains what a configuration says, from where an earlier run of it stopped, and returns the run's folder.

    Args:
        dry_run: print what would be done, and do and write nothing.
        kind: the objective; None: the one that the configuration names.

    Raises:
        ValueError: the settings, the data or the networks do not fit together (nothing has been trained then), or
            too many samples cannot be read, a checkpoint cannot be written, or `optim.max_skipped` steps in a row had
            no finite gradient.
        KeyboardInterrupt: after SIGTERM or SIGINT, when the step under way is saved.
    """
    check_machine(config)
    run = RunDir(config)
    # Told so, accelerate joins the processes that torchrun started also where there is no accelerator.
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[config.mixed_precision],
        cpu=not torch.accelerator.is_available(),
        log_with=config.trackers or None,
        project_dir=run.path,
    )
    _check_distribution(accelerator)
    run.main = accelerator.is_main_process
    set_seed(config.seed)

    # ---- networks: everything frozen but what the patterns name
    objective = build_objective(config, kind).to(accelerator.device)
    weights = select_trainable(objective.parts, config.trainable)
    if config.lora.rank is not None and (others := [name for name in weights if ".lora_" not in name]):
        raise ValueError(f"trainable: got {others[0]}, expected a LoRA's weights alone where lora.rank is set")
    frozen = _fingerprints(objective, weights)

    # ---- data: the same order whether or not the run was interrupted
    if dry_run:
        accelerator.print(describe_plan(config, objective, source_at_hand(config, objective)))
        return run.path
    source = cached_source(config, objective, accelerator.state) if config.data.cache else open_source(config.data)
    accelerator.print(f"{run.path}: training {sum(p.numel() for p in weights.values()):,} parameters")

    # ---- optimiser, schedule, moving average: only of what is trained
    optim = config.optim
    optimizer = _optimizer(config, weights)
    shape = SCHEDULES[optim.schedule]
    schedule = get_scheduler(shape, optimizer, num_warmup_steps=optim.warmup_steps, num_training_steps=config.steps)
    average = {name: p.detach().float().clone() for name, p in weights.items()} if optim.ema_decay else {}
    state = {"step": 0, "samples": 0, "skipped": 0, "skipped_in_all": 0, "losses": [], "data": len(source)}

    # ---- resume
    if accelerator.is_main_process:
        for aside in run.set_aside_unreadable():
            print(f"{aside}: cannot be read, and is left out")
    accelerator.wait_for_everyone()
    if (saved := run.load(frozen)) is not None:
        state |= _restore(saved, weights, average, optimizer, schedule, accelerator.scaler)
        _check_data(config, len(source), state["data"])
        run.rewind_log(state["step"])
        changes = f" with {'; '.join(run.changes)}" if run.changes else ""
        accelerator.print(f"{run.path}: going on from step {state['step']}{changes}")
    if state["step"] >= config.steps:
        run.finish()
        return run.path

    rank, ranks = accelerator.process_index, accelerator.num_processes
    feed = open_feed(config, source, state["samples"], rank, ranks, tqdm.write, run.path / BAD)
    validation = Validation(config, objective, run.path / VALIDATION) if config.validation.every else None
    if config.compile:
        objective.parts["unet"].compile()
    model, optimizer = accelerator.prepare(objective, optimizer)
    generator = torch.Generator(accelerator.device)

    # ---- steps
    model.train()
    clock, began = _Clock(state["samples"]), state["step"]
    progress = tqdm(
        range(state["step"], config.steps), "training", disable=not accelerator.is_main_process, mininterval=5
    )
    with StopSignal(accelerator) as stop, closing(feed):
        for step in progress:
            batches = [clock.waiting(feed) for _ in range(optim.gradient_accumulation_steps)]
            loss, norm = _optimize(config, accelerator, model, weights, optimizer, batches, generator, step)
            schedule.step()
            step += 1
            state |= {"step": step, "samples": feed.position, "skipped": _skipped(config, state, loss, norm)}
            if state["skipped"]:
                state["skipped_in_all"] += 1
            else:
                state["losses"].append(loss)
                _average(average, weights, optim.ema_decay, step)

            # ---- what is seen of it
            if step == began + 1 and accelerator.is_main_process:  # not before: a run may fail at its first step
                accelerator.init_trackers("run", {key: str(value) for key, value in asdict(config).items()})
                if step == 1:
                    with run.writing(FIRST_BATCH):
                        draw_first_batch(batches[0], objective, run.path / FIRST_BATCH)
            if step % config.log_every == 0:
                row = clock.row(feed.position) | _row(state, norm, schedule)
                progress.set_postfix({key: row[key] for key in ("loss", "lr", "clips_per_s", "skipped_in_all")})
                run.log(row)
                accelerator.log({key: value for key, value in row.items() if value is not None}, step)
                state["losses"] = []
            if validation and step % config.validation.every == 0 and accelerator.is_main_process:
                with _swapped(weights, average):
                    validation.draw(step, accelerator)

            # ---- what is kept of it
            stopping = stop.agreed()
            if step % config.save_every == 0 or step == config.steps or stopping:
                scaler = accelerator.scaler.state_dict() if accelerator.scaler else None  # fp16's loss scale
                run.save(weights, average, frozen, state | {"optimizer": optimizer.state_dict(), "scaler": scaler})
            if stopping and step < config.steps:
                accelerator.wait_for_everyone()  # a launcher kills the others as soon as one of them ends
                raise KeyboardInterrupt(f"{run.path}: saved at step {step}; to go on, run the same command again")
    run.finish()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return run.path


def build_objective(config: TrainConfig, kind: type[Objective] | None = None) -> Objective:
    """The run's objective, with its networks loaded from `config.init`; arguments as for `train`."""
    kind = OBJECTIVES[config.objective] if kind is None else kind
    parts = kind.load(config)
    if config.lora.rank is not None:
        add_lora(parts["unet"], config.lora)
    if config.gradient_checkpointing:
        parts["unet"].enable_gradient_checkpointing()
    return kind(parts, load_tokenizer(config.init), load_scheduler(config.init), config)


# ---- a step ----------------------------------------------------------------------------------------------------------


def _optimize(
    config: TrainConfig, accelerator: Accelerator, model: Objective, weights: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, batches: list[Batch], generator: torch.Generator, step: int,
) -> tuple[float, float]:  # fmt: skip
    """One optimiser step over the batches that it accumulates; returns its mean loss and the norm of its gradient.

    Where that is not finite, the weights stay. It is the same in all processes, since the gradient is.
    """
    loss_sum = 0.0
    for part, batch in enumerate(batches):
        # Every random number of a step follows from these four, so a resumed run draws what an unbroken one would.
        key = (config.seed, step, part, accelerator.process_index)
        generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        last = part + 1 == len(batches)
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                loss = model(batch.to(accelerator.device), generator)
            accelerator.backward(loss / len(batches))
        loss_sum += loss.item() / len(batches)
    norm = float(accelerator.clip_grad_norm_(weights.values(), config.optim.max_grad_norm))
    if math.isfinite(norm) or accelerator.scaler:  # fp16's scaler skips such a step itself, and lowers its scale
        optimizer.step()
    optimizer.zero_grad()
    return loss_sum, norm


def _skipped(config: TrainConfig, state: dict[str, Any], loss: float, norm: float) -> int:
    """How many steps in a row were skipped, this one included, for want of a finite gradient; too many are an error."""
    if math.isfinite(norm):
        return 0
    skipped = state["skipped"] + 1
    if skipped >= config.optim.max_skipped:
        raise ValueError(
            f"{config.output}: {skipped} steps in a row had no finite gradient (at step {state['step']} the loss is "
            f"{loss}); look at first-batch.png and log.jsonl there, and try a lower optim.learning_rate, a longer "
            f"optim.warmup_steps, or mixed_precision bf16 or fp32 in place of {config.mixed_precision}"
        )
    return skipped


def _average(average: dict[str, Tensor], weights: dict[str, Tensor], decay: float | None, step: int) -> None:
    """Moves the moving average one step on; at first it is a short one, so that it is not stuck where it began."""
    for name, mean in average.items():
        mean.lerp_(weights[name].detach().float(), 1 - min(decay, (1 + step) / (10 + step)))


@contextmanager
def _swapped(weights: dict[str, Tensor], average: dict[str, Tensor]) -> Iterator[None]:
    """Puts the moving average, where there is one, in the weights' place for a while."""
    own = {name: weights[name].detach().clone() for name in average}
    _copy(average, weights)
    yield
    _copy(own, weights)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)


# ---- what a step is told by ------------------------------------------------------------------------------------------


class _Clock:
    """Measures how fast a run is, and for how much of its time it waits for data."""

    def __init__(self, samples: int) -> None:
        self.began, self.waited, self.samples = time.monotonic(), 0.0, samples

    def waiting(self, feed: Iterator[Batch]) -> Batch:
        """The next batch; the wait for it is counted."""
        asked = time.monotonic()
        batch = next(feed)
        self.waited += time.monotonic() - asked
        return batch

    def row(self, samples: int) -> dict[str, float]:
        """Clips per second and the share of the time that was spent waiting, since the last row."""
        passed = time.monotonic() - self.began
        row = {"clips_per_s": round((samples - self.samples) / passed, 2), "data_wait": round(self.waited / passed, 4)}
        self.__init__(samples)
        return row


def _row(state: dict[str, Any], norm: float, schedule: Any) -> dict[str, float | None]:
    losses = state["losses"]
    return {
        "step": state["step"],
        "clips": state["samples"],
        "loss": sum(losses) / len(losses) if losses else None,  # None: every step of it was skipped
        "lr": schedule.get_last_lr()[0],
        "gradient_norm": norm if math.isfinite(norm) else None,
        "skipped": state["skipped"],  # the last ones in a row
        "skipped_in_all": state["skipped_in_all"],
    }


# ---- start and resume ------------------------------------------------------------------------------------------------


def _check_data(config: TrainConfig, samples: int, before: int) -> None:
    """Passes if a run that goes on has as many samples as it began with; its order is another with more or fewer."""
    if samples != before:
        raise ValueError(
            f"data.path: got {samples} samples in {config.data.path}, expected {before}, with which {config.output} "
            "began; choose another output, or the data it was started with"
        )


def _optimizer(config: TrainConfig, weights: dict[str, Tensor]) -> torch.optim.Optimizer:
    optim = config.optim
    settings = {"lr": optim.learning_rate, "betas": tuple(optim.betas), "weight_decay": optim.weight_decay}
    if optim.name == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(list(weights.values()), **settings)
    return torch.optim.AdamW(weights.values(), fused=True, **settings)


def _fingerprints(objective: Objective, weights: dict[str, Tensor]) -> dict[str, str]:
    """What tells the weights that a run does not train from others, by network."""
    trained = {
        name: {key.partition(".")[2] for key in weights if key.startswith(f"{name}.")} for name in objective.parts
    }
    return {name: fingerprint(part, trained[name]) for name, part in objective.parts.items()}


def _check_distribution(accelerator: Accelerator) -> None:
    sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    if accelerator.distributed_type in sharded:
        raise ValueError(
            f"accelerate's distributed_type: got {accelerator.distributed_type.value}, expected plain data parallel "
            "(MULTI_GPU): what a stage trains is a small part of the network, and sharding it would save little"
        )
    if accelerator.num_processes == 1 and is_one_of_several():
        raise ValueError(
            "accelerate launch --cpu: got one process, expected --num_processes; accelerate leaves the others to "
            "mpirun. Launch scripts/train.py, which starts them, with --num_processes on the command line, or use "
            "torchrun --nproc_per_node N scripts/train.py"
        )


def _restore(saved, weights, average, optimizer, schedule, scaler) -> dict[str, Any]:
    stored, stored_average, state = saved
    if stored.keys() != weights.keys():
        odd = sorted(stored.keys() ^ weights.keys())[0]
        raise ValueError(f"the checkpoint and the run train different parameters, such as {odd}")
    _copy(stored, weights)
    _copy(stored_average, average)
    optimizer.load_state_dict(state.pop("optimizer"))
    if (scale := state.pop("scaler")) and scaler:
        scaler.load_state_dict(scale)
    # The learning rate is a function of the step alone; setting it this way lets a run be made longer.
    schedule.last_epoch = state["step"]
    for group, rate, shape in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = rate * shape(state["step"])
    return state
