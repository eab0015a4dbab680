"""The plan of a run, as `followyourpose train --dry-run` prints it: settings, parameters, data and memory."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from followyourpose.common.checks import counted
from followyourpose.config import TrainConfig
from followyourpose.data.batch import Source
from followyourpose.training.checks import PRECISIONS
from followyourpose.training.objectives import Denoise, Objective

_TRAINED = 4 + 4 + 8  # bytes per trained parameter: itself, its gradient, Adam's two moments, all in fp32
_GB = 1e9


def describe_plan(config: TrainConfig, objective: Objective, source: Source | None, shapes: Path | None = None) -> str:
    """Describe the settings, the trainable parameters by pattern, the data's size and the memory, estimated.

    Args:
        source: None for data that are not there, or not copied yet.
        shapes: the folder of configs by which the networks were built; None: they were loaded.
    """
    missing = f"init: {config.init} is not there yet; its networks are counted by the configs in {shapes}"
    lines = [
        yaml.safe_dump(asdict(config), sort_keys=False),
        *([] if shapes is None else [missing]),
        "trainable:",
        *(f"  {line}" for line in _patterns(objective.parts, config.trainable)),
        *_size(config, source),
        "memory of one process, estimated:",
        *(f"  {name}: {size / _GB:.3f} GB" for name, size in memory(config, objective).items()),
    ]
    return "\n".join(lines)


def memory(config: TrainConfig, objective: Objective) -> dict[str, float]:
    """Bytes that one process needs, by purpose, and in all; temporary ones of a backward pass are not counted."""
    counts = {True: 0, False: 0}
    for parameter in objective.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    needs = {"frozen weights": 4.0 * counts[False], "trained weights, gradients, Adam": float(_TRAINED * counts[True])}
    if config.optim.ema_decay:
        needs["moving average"] = 4.0 * counts[True]
    if isinstance(objective, Denoise):
        name = "activations" + (" between checkpoints" if config.gradient_checkpointing else "")
        needs[name] = _activations(config, objective) / (1 if PRECISIONS[config.mixed_precision] == "no" else 2)
    return needs | {"in all": sum(needs.values())}


def _size(config: TrainConfig, source: Source | None) -> Iterator[str]:
    clips = config.optim.batch_size * config.optim.gradient_accumulation_steps
    if source is None:
        why = f"which the run copies to {config.data.download} first" if "://" in config.data.path else "not there yet"
        yield f"data: {config.data.path}, {why}; its size is unknown"
        yield f"  a step of one process takes {counted(clips, 'sample')}"
        return
    yield f"data: {counted(len(source), 'sample')} in {config.data.path}"
    yield from (f"  {number:,} left out: {reason}" for reason, number in source.dropped.items())
    yield (
        f"  a step of one process takes {clips}, an epoch {len(source) / clips:,.1f} steps, "
        f"the run {config.steps * clips / len(source):,.2f} epochs"
    )


def _patterns(module: nn.Module, patterns: Sequence[str]) -> Iterator[str]:
    named = dict(module.named_parameters())
    for pattern in patterns:
        sizes = [parameter.numel() for name, parameter in named.items() if re.search(pattern, name)]
        yield f"{pattern}: {len(sizes)} tensors, {sum(sizes):,} parameters"
    trained = sum(parameter.numel() for parameter in named.values() if parameter.requires_grad)
    yield f"in all: {trained:,} of {sum(parameter.numel() for parameter in named.values()):,} parameters"


def _activations(config: TrainConfig, objective: Denoise) -> float:
    """Bytes that autograd keeps of one batch in fp32, counted on networks of shapes without numbers."""
    data, vae = config.data, objective.parts["vae"].config
    factor, b, f = 2 ** (len(vae.block_out_channels) - 1), config.optim.batch_size, data.num_frames
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept.append(tensor)
        return tensor

    predict, mode = _Prediction(objective), FakeTensorMode()
    own = dict(predict.named_parameters()) | dict(predict.named_buffers())
    device = next(predict.parameters()).device
    with mode, device, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        latents = torch.empty(b, vae.latent_channels, f, data.height // factor, data.width // factor)
        words = objective.parts["text_encoder"].config.max_position_embeddings
        text = torch.empty(b, words, objective.parts["unet"].config.cross_attention_dim)
        skeleton = torch.empty(b, 3, f, data.height, data.width) if data.skeleton else None
        hollow = {name: mode.from_tensor(tensor) for name, tensor in own.items()}
        functional_call(predict, hollow, (latents, text, skeleton))
    return float(sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in kept}.values()))


class _Prediction(nn.Module):
    """The differentiated part of an objective's step, as the forward pass of a module."""

    def __init__(self, objective: Denoise) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, latents: Tensor, text: Tensor, skeleton: Tensor | None) -> Tensor:
        return self.objective.predict(latents, torch.zeros(len(latents), dtype=torch.long), text, skeleton)
