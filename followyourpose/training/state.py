"""State of a run: all that a checkpoint holds beside the settings, and how it moves by one step."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor

from followyourpose.common.checks import counted
from followyourpose.config import TrainConfig
from followyourpose.training.checks import SCHEDULES
from followyourpose.training.run_dir import Stored


class TrainState:
    """Trained weights with their moving average, the optimiser with its schedule, and the counters of a run.

    Args:
        weights: trained parameters by name; data: number of samples in the data set.
        scaler: of fp16's losses; None: there is none.
    """

    def __init__(self, config: TrainConfig, weights: dict[str, Tensor], data: int, scaler: Any = None) -> None:
        optim = config.optim
        self.config, self.weights, self.scaler = config, weights, scaler
        # moving average, empty where the run keeps none
        self.average = {name: p.detach().float().clone() for name, p in weights.items()} if optim.ema_decay else {}
        self.optimizer: Any = _optimizer(config, weights)
        self.schedule = get_scheduler(
            SCHEDULES[optim.schedule], self.optimizer, num_warmup_steps=optim.warmup_steps,
            num_training_steps=config.steps,
        )  # fmt: skip
        # Samples are those of all processes, skipped are steps in a row, losses those since the last row of the log.
        self.counters = {"step": 0, "samples": 0, "skipped": 0, "skipped_in_all": 0, "losses": [], "data": data}

    @property
    def step(self) -> int:
        return self.counters["step"]

    def rest(self) -> dict[str, Any]:
        """Return all but weights and average, as `restore` takes it."""
        scaler = self.scaler.state_dict() if self.scaler else None
        return self.counters | {"optimizer": self.optimizer.state_dict(), "scaler": scaler}

    def check(self, stored: Stored) -> None:
        """Raise a ValueError unless weights, average, optimiser and counters of a checkpoint fit this run."""
        weights, average, rest = stored
        for tensors, own in ((weights, self.weights), (average, self.average)):
            odd = [name for name in tensors.keys() | own.keys() if _shape(tensors, name) != _shape(own, name)]
            if odd:
                raise ValueError(f"it and the run train different parameters, such as {min(odd)}")
        if missing := {"samples", "data", "optimizer", "scaler"} - rest.keys():
            raise ValueError(f"its state has no {min(missing)}")
        try:
            moments = rest["optimizer"]["state"]
            shapes = [tuple(moments[i]["exp_avg"].shape) for i in range(len(moments))]
        except (KeyError, TypeError, AttributeError) as error:
            if self.config.optim.name == "adamw":  # adamw8bit has states of other names
                raise ValueError("its optimiser's state is of another form") from error
        else:
            if moments and shapes != [tuple(parameter.shape) for parameter in self.weights.values()]:
                raise ValueError("its optimiser's state is of another shape")

    def restore(self, weights: dict[str, Tensor], average: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Go on from a checkpoint that `check` has passed.

        Raises:
            ValueError: the data set has another number of samples, so that their order would be another.
        """
        if (samples := self.counters["data"]) != rest["data"]:
            raise ValueError(
                f"data.path: got {counted(samples, 'sample')} in {self.config.data.path}, expected {rest['data']}, "
                f"with which {self.config.output} began; choose another output, or the data it was started with"
            )
        _copy(weights, self.weights)
        _copy(average, self.average)
        rest = dict(rest)
        self.optimizer.load_state_dict(rest.pop("optimizer"))
        if (scale := rest.pop("scaler")) and self.scaler:
            self.scaler.load_state_dict(scale)
        self.counters |= rest
        # The learning rate is a function of the step alone; set this way, a run can be made longer.
        schedule, step = self.schedule, self.step
        schedule.last_epoch = step
        for group, rate, shape in zip(self.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = rate * shape(step)

    def advance(self, loss: float, norm: float, samples: int) -> None:
        """Count an optimiser step, move the schedule and, where its gradient was finite, the average.

        Args:
            loss: mean over the step's batches; norm: of its gradient; samples: read by all processes until now.

        Raises:
            ValueError: too many steps in a row had no finite gradient.
        """
        counters = self.counters
        with warnings.catch_warnings():  # a skipped first step is no wrong order of calls
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self.schedule.step()
        counters |= {"step": self.step + 1, "samples": samples}
        if math.isfinite(norm):
            counters["skipped"] = 0
            counters["losses"].append(loss)
            self._average()
        else:
            counters["skipped"] += 1
            counters["skipped_in_all"] += 1
            self._check_skipped(loss)

    def _average(self) -> None:
        """Move the average one step on; at first it is a short one, so that it soon leaves the start."""
        share = min(self.config.optim.ema_decay or 0.0, (1 + self.step) / (10 + self.step))
        for name, mean in self.average.items():
            mean.lerp_(self.weights[name].detach().float(), 1 - share)

    def _check_skipped(self, loss: float) -> None:
        config, skipped = self.config, self.counters["skipped"]
        if skipped >= config.optim.max_skipped:
            raise ValueError(
                f"{config.output}: {counted(skipped, 'step')} in a row had no finite gradient (at step {self.step} the "
                f"loss is {loss}); see first-batch.png and log.jsonl there, and try a lower optim.learning_rate, a "
                f"longer optim.warmup_steps, or mixed_precision bf16 or fp32 in place of {config.mixed_precision}"
            )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the moving average, where there is one, in the weights' place for a while."""
        own = {name: self.weights[name].detach().clone() for name in self.average}
        _copy(self.average, self.weights)
        yield
        _copy(own, self.weights)


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)


def _optimizer(config: TrainConfig, weights: dict[str, Tensor]) -> torch.optim.Optimizer:
    optim = config.optim
    settings = {"lr": optim.learning_rate, "betas": tuple(optim.betas), "weight_decay": optim.weight_decay}
    if optim.name == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(list(weights.values()), **settings)
    return torch.optim.AdamW(weights.values(), fused=True, **settings)
