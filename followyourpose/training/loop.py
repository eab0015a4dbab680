"""The one training loop: the base model's parts and both stages of the paper run through it.

To resume a run, run the same command again.
"""

import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from torch import Tensor
from tqdm import tqdm

from followyourpose.config import TrainConfig
from followyourpose.data.batch import Batch
from followyourpose.training.cache import CachedMoments
from followyourpose.training.components import load_components, load_scheduler, load_tokenizer
from followyourpose.training.feed import KINDS, open_feed, open_source
from followyourpose.training.objectives import OBJECTIVES, Objective
from followyourpose.training.run_dir import RunDir
from followyourpose.training.trainable import select_trainable

SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}  # all after the warm-up


def train(config: TrainConfig) -> Path:
    """Trains what a configuration says, from where an earlier run of it stopped, and returns the run's folder.

    Raises:
        ValueError: the settings, the data or the networks do not fit together; nothing has been trained then.
    """
    _check(config)
    # Told so, accelerate joins the processes that torchrun started also where there is no accelerator.
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=not torch.accelerator.is_available())
    run = RunDir(config, main=accelerator.is_main_process)
    set_seed(config.seed)

    # ---- networks: everything frozen but what the patterns name
    objective = build_objective(config).to(accelerator.device)
    weights = select_trainable(objective.parts, config.trainable)
    accelerator.print(f"{run.path}: training {sum(p.numel() for p in weights.values()):,} parameters")

    # ---- optimiser, schedule, moving average: only of what is trained
    optim = config.optim
    optimizer = torch.optim.AdamW(
        weights.values(), optim.learning_rate, tuple(optim.betas), weight_decay=optim.weight_decay, fused=True
    )
    shape = SCHEDULES[optim.schedule]
    schedule = get_scheduler(shape, optimizer, num_warmup_steps=optim.warmup_steps, num_training_steps=config.steps)
    average = {name: p.detach().float().clone() for name, p in weights.items()} if optim.ema_decay else {}

    # ---- resume
    step = 0
    if (saved := run.load()) is not None:
        step = _restore(saved, weights, average, optimizer, schedule, accelerator.scaler)
        accelerator.print(f"{run.path}: going on from step {step}")
    if step >= config.steps:
        run.finish()
        return run.path

    # ---- data: the same order whether or not the run was interrupted
    source = open_source(config.data)
    if config.data.cache:
        size = (config.data.height, config.data.width)
        source = CachedMoments(source, partial(_moments, objective), PartialState(), size)
    clips = optim.batch_size * optim.gradient_accumulation_steps * accelerator.num_processes  # per step
    rank, ranks = accelerator.process_index, accelerator.num_processes
    batches = open_feed(config, source, step * clips, rank, ranks, tqdm.write, run.path / "bad.jsonl")
    model, optimizer = accelerator.prepare(objective, optimizer)
    generator = torch.Generator(accelerator.device)

    # ---- steps
    model.train()
    started, first, losses = time.monotonic(), step, []
    progress = tqdm(range(step, config.steps), "training", disable=not accelerator.is_main_process, mininterval=5)
    for _ in progress:
        losses.append(_optimize(config, accelerator, model, weights, optimizer, batches, generator, step))
        schedule.step()
        step += 1
        decay = min(optim.ema_decay or 0.0, (1 + step) / (10 + step))  # short at first, so that it is not stuck there
        for name, mean in average.items():
            mean.lerp_(weights[name].detach().float(), 1 - decay)
        if step % config.log_every == 0:
            rate = (step - first) / (time.monotonic() - started)
            loss, lr = sum(losses) / len(losses), schedule.get_last_lr()[0]
            row = {"step": step, "clips": step * clips, "loss": loss, "lr": lr, "steps_per_s": rate}
            progress.set_postfix(loss=f"{row['loss']:.4f}")
            run.log(row)
            losses.clear()
        if step % config.save_every == 0 or step == config.steps:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler else None  # fp16's loss scale
            run.save(weights, average, {"step": step, "optimizer": optimizer.state_dict(), "scaler": scaler})
    batches.close()
    run.finish()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return run.path


def build_objective(config: TrainConfig) -> Objective:
    """The run's objective, with its networks loaded from `config.init`."""
    kind = OBJECTIVES[config.objective]
    needs = [name for name in kind.needs if name != "pose_encoder" or config.data.skeleton]
    if unused := sorted(set(config.scratch) - set(needs)):
        raise ValueError(f"scratch: got {unused[0]!r}, expected a network that this run uses: {', '.join(needs)}")
    parts = load_components(config.init, needs, config.scratch)
    if config.gradient_checkpointing:
        parts["unet"].enable_gradient_checkpointing()
    return kind(parts, load_tokenizer(config.init), load_scheduler(config.init), config)


def _optimize(
    config: TrainConfig, accelerator: Accelerator, model: Objective, weights: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, batches: Iterator[Batch], generator: torch.Generator, step: int,
) -> float:  # fmt: skip
    """One optimiser step over `gradient_accumulation_steps` batches; returns its mean loss."""
    parts, loss_sum = config.optim.gradient_accumulation_steps, 0.0
    for part in range(parts):
        batch: Batch = next(batches).to(accelerator.device)
        # Every random number of a step follows from these four, so a resumed run draws what an unbroken one would.
        key = (config.seed, step, part, accelerator.process_index)
        generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        last = part + 1 == parts
        with torch.enable_grad() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                loss = model(batch, generator)
            accelerator.backward(loss / parts)
        loss_sum += loss.item() / parts
    if not math.isfinite(loss_sum):
        raise RuntimeError(f"the loss is {loss_sum} at step {step}; a lower learning rate or fp32 may help")
    accelerator.clip_grad_norm_(weights.values(), config.optim.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss_sum


def _check(config: TrainConfig) -> None:
    for key, value, known in (
        ("objective", config.objective, OBJECTIVES),
        ("data.kind", config.data.kind, KINDS),
        ("optim.schedule", config.optim.schedule, SCHEDULES),
        ("mixed_precision", config.mixed_precision, ("no", "fp16", "bf16")),
    ):
        if value not in known:
            raise ValueError(f"{key}: got {value!r}, expected one of {', '.join(known)}")
    for key, value in (("steps", config.steps), ("save_every", config.save_every), ("log_every", config.log_every),
                       ("optim.batch_size", config.optim.batch_size), ("data.num_frames", config.data.num_frames),
                       ("optim.gradient_accumulation_steps", config.optim.gradient_accumulation_steps)):  # fmt: skip
        if value < 1:
            raise ValueError(f"{key}: got {value}, expected at least 1")
    for key, value in (("data.cache", config.data.cache), ("gradient_checkpointing", config.gradient_checkpointing)):
        if value and config.objective != "denoise":
            raise ValueError(f"{key}: got true, which is for objective denoise; this one is {config.objective}")
    stride = config.data.stride
    if len(stride) != 2 or not 1 <= stride[0] <= stride[1]:
        raise ValueError(f"data.stride: got {stride}, expected [lowest, highest] with 1 <= lowest <= highest")


def _restore(saved, weights, average, optimizer, schedule, scaler) -> int:
    stored, stored_average, state = saved
    if stored.keys() != weights.keys():
        odd = sorted(stored.keys() ^ weights.keys())[0]
        raise ValueError(f"the checkpoint and the run train different parameters, such as {odd}")
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(stored[name])
        for name, mean in average.items():
            mean.copy_(stored_average[name])
    optimizer.load_state_dict(state["optimizer"])
    if scaler and state.get("scaler"):
        scaler.load_state_dict(state["scaler"])
    # The learning rate is a function of the step alone; setting it this way lets a run be made longer.
    schedule.last_epoch = state["step"]
    for group, rate, shape in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = rate * shape(state["step"])
    return state["step"]


def _moments(objective: Objective, pixels: Tensor) -> Tensor:
    device = next(objective.parameters()).device
    return objective.moments(pixels.to(device))
