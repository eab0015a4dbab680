"""Loading of models: the kind of model at a path, and weights taken as a whole or not at all."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from followyourpose.common.files import read_json
from followyourpose.hub.files import weights_in

if TYPE_CHECKING:  # the kind of a model is found without the seconds that torch takes
    from torch import Tensor, nn

INDEX = "model_index.json"  # lists the components of a diffusers folder
# How diffusers and transformers name the problems of loaded weights -> how messages name them.
PROBLEMS = {
    "missing_keys": "missing",
    "unexpected_keys": "not expected",
    "mismatched_keys": "of another shape",
    "error_msgs": "that cannot be read",
}

CHANNELS_LAST = ("cuda", "xpu")  # types of devices whose convolutions copy images that have the channels first
SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt")  # of files of weights
LORA_NAME, EMBEDDING_NAME = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"  # diffusers'
# Modules that print a line for each format that they try, each cast that they make and each word that is added.
_LOUD = (
    "diffusers.models.modeling_utils", "diffusers.loaders.single_file", "diffusers.loaders.single_file_utils",
    "diffusers.loaders.lora_pipeline", "transformers.modeling_utils", "transformers.distributed.tensor_parallel",
)  # fmt: skip

ModelKind = Literal["pipeline", "image", "file"]


def model_kind(path: Path) -> ModelKind:
    """Return the kind of model at a path.

    pipeline   a folder of FollowYourPosePipeline: its index lists a pose encoder
    image      a folder of an image model: an index without a pose encoder
    file       one file of weights, an image model's

    Raises:
        ValueError: nothing is there, or a folder without an index; the message names the path.
    """
    if path.is_file():
        return "file"
    if not path.exists():
        raise ValueError(f"{path}: no such folder; checkpoints/README.md lists the models and their places")
    if not (path / INDEX).is_file():
        raise ValueError(f"{path}: has no {INDEX}, expected a pipeline's or an image model's folder")
    return "pipeline" if "pose_encoder" in read_json(path / INDEX) else "image"


def weights_file(path: Path, usual: str) -> Path:
    """Return the file at a path, or the one file of weights in the folder there; of several, that with the usual name.

    Raises:
        ValueError: nothing is there, or no such file.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path}: no such file, expected one of weights ({', '.join(SUFFIXES)}) or its folder")
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    chosen = [file for file in found if file.name == usual] or found
    if len(chosen) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(f"{path}: got {names}, expected one file of weights, or one called {usual}")
    return chosen[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers and transformers about formats, casts and words; their errors are raised all the same."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def blocks_per_group(block: Any) -> int:
    """Return the number of blocks that diffusers' group offload loads and frees together with this one; 0: none."""
    offload = _group_offload(block)
    return 0 if offload is None else len(offload.group.modules)


def is_offloaded(model: "nn.Module", to_disk: bool = False) -> bool:
    """Whether a model's weights are there only while a part of it runs, by group offload, or by that to a disk."""
    hooks = filter(None, map(_group_offload, model.modules()))
    return any(not to_disk or hook.config.offload_to_disk_path is not None for hook in hooks)


def _group_offload(module: Any) -> Any:
    hooks = getattr(module, "_diffusers_hook", None)
    return None if hooks is None else hooks.get_hook("group_offloading")


def load_network(folder: Path, kind: Any, **kwargs: Any) -> Any:
    """Load a network of diffusers' or transformers' class `kind`; of several formats and variants, the best one.

    A weight that the folder lacks is an error, not a warning; one that has no place in the network is left out.

    Raises:
        ValueError: the folder cannot be read, or a weight is missing or of another shape.
    """
    form, variant = weights_in(file.name for file in folder.iterdir() if folder.is_dir())
    if form:  # or the libraries would try them with a line each
        kwargs |= {"use_safetensors": form == "safetensors", "variant": variant}
    try:
        with quiet():
            network, info = kind.from_pretrained(str(folder), output_loading_info=True, **kwargs)
    except Exception as error:  # of many kinds, some of them the libraries' own
        reason = " ".join(str(error).split()).removeprefix(f"{folder}: ")[:300] or type(error).__name__
        raise ValueError(f"{folder}: cannot be read as a {kind.__name__} ({reason})") from error
    check_loaded(folder, kind.__name__, info, extra=True)
    return network


class StrictLoading:
    """A diffusers model in which a missing or an extra weight is an error, not a warning.

    On the devices of `CHANNELS_LAST` convolutions have their weights, and so give their images, in that memory format.
    """

    def _apply(self, *args: Any, **kwargs: Any) -> Any:  # every move and cast comes here, that of a whole objective too
        from torch import channels_last  # late, as above

        super()._apply(*args, **kwargs)  # type: ignore[misc]
        for weight in self.parameters():  # type: ignore[attr-defined]
            if weight.device.type in CHANNELS_LAST and weight.ndim == 4:
                weight.data = weight.data.to(memory_format=channels_last)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move and cast as `torch.nn.Module.to` does; diffusers would warn of each cast."""
        with quiet():
            return super().to(*args, **kwargs)  # type: ignore[misc]  # of the ModelMixin beside this class

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Any:
        """Load a folder written by `save_pretrained`; arguments as for diffusers' `ModelMixin.from_pretrained`.

        Raises:
            ValueError: a weight is missing, extra or of another shape.
        """
        with_info = kwargs.pop("output_loading_info", False)
        load = super().from_pretrained  # type: ignore[misc]  # of the ModelMixin beside this class
        with quiet():
            model, info = load(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        check_loaded(pretrained_model_name_or_path, cls.__name__, info)
        return (model, info) if with_info else model


def check_loaded(source: str | PathLike[str], model: str, info: Mapping[str, Any], extra: bool = False) -> None:
    """Raise a ValueError that names `source` and `model` unless the weights of a folder fitted.

    Args:
        info: the second value of `from_pretrained(..., output_loading_info=True)`.
        extra: whether weights that the model has no place for are left out without an error.
    """
    found = {problem: info.get(key) or () for key, problem in PROBLEMS.items()}
    if extra:
        del found[PROBLEMS["unexpected_keys"]]
    # a weight of another shape comes with its shapes behind its name
    names = {problem: [key if isinstance(key, str) else key[0] for key in keys] for problem, keys in found.items()}
    _refuse(source, model, names)


def load_every_weight(
    model: "nn.Module", weights: "Mapping[str, Tensor]", source: str, may_miss: Collection[str] = ()
) -> None:
    """Copy weights into a model by name, in place; those in `may_miss` keep their start where they are not given.

    Raises:
        ValueError: a weight is missing, extra or of another shape; the message names `source` and the first keys.
    """
    check_weights(model, weights, source, may_miss)
    model.load_state_dict(weights, strict=False)


def check_weights(
    model: "nn.Module", weights: "Mapping[str, Tensor]", source: str, may_miss: Collection[str] = ()
) -> None:
    """Raise the errors of `load_every_weight`, and copy nothing."""
    own = model.state_dict()
    missing = own.keys() - weights.keys() - set(may_miss)
    reshaped = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    problems = (missing, weights.keys() - own.keys(), reshaped)
    _refuse(source, type(model).__name__, dict(zip(PROBLEMS.values(), problems, strict=False)))


def _refuse(source: str | PathLike[str], model: str, problems: Mapping[str, Iterable[str]]) -> None:
    found = {problem: sorted(names) for problem, names in problems.items()}
    parts = [f"{len(names)} {problem}, e.g. {', '.join(names[:3])}" for problem, names in found.items() if names]
    if parts:
        raise ValueError(f"{source}: got weights that do not fit {model}: {'; '.join(parts)}")
