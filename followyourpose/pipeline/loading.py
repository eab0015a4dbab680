"""Loading and saving of a pipeline: folders, image models, the hub; and the places of its components."""

import inspect
import json
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import apply_group_offloading
from huggingface_hub import create_repo, file_exists
from torch import nn

from followyourpose.common.files import atomic_write, read_json
from followyourpose.models.inflate import inflate
from followyourpose.models.loading import model_kind, quiet
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.pipeline.image_model import load_image_model, vae_scale_factor
from followyourpose.pipeline.names import Name, left_to_diffusers, only_variant, resolved

_CARD = """---
library_name: diffusers
pipeline_tag: text-to-video
tags: [text-to-video, pose, follow-your-pose]
---

# {name}

A pipeline of [Follow Your Pose](https://arxiv.org/abs/2304.01186): videos from a prompt and a clip of skeletons.

```python
from followyourpose import FollowYourPosePipeline

pipe = FollowYourPosePipeline.from_pretrained("{repository}").to("cuda")
out = pipe("a robot in the desert", skeleton="dance.mp4", num_frames=16)  # frames of skeletons on black
out.videos  # (1, f, H, W, 3) in [0, 1]
```
"""


class Loading(DiffusionPipeline):
    """The part of `FollowYourPosePipeline` that reads and writes itself."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Name, **kwargs: Any) -> Self:
        """Load a folder written by `save_pretrained`; arguments as for `DiffusionPipeline.from_pretrained`.

        Weights become float32, however they are stored, unless `dtype` (or `torch_dtype`) is given. Where a folder has
        one variant of them alone, such as fp16, that is loaded.

        Args:
            pretrained_model_name_or_path: a folder, a name of `followyourpose download`, or a hub id; with "@revision",
                or the argument `revision`.

        Raises:
            ValueError: the folder or a component is missing or broken, or weights of UNet or pose encoder do not fit.
        """
        path: Name = pretrained_model_name_or_path
        if not left_to_diffusers(path, kwargs):
            path = folder = resolved(path, "from_pretrained", kwargs.pop("revision", None), kwargs.get("variant"))
            cls._check_components(folder, given=kwargs.keys())
            kwargs["variant"] = kwargs.get("variant") or only_variant(folder, kwargs.keys())
        if not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = torch.float32  # else only the text encoder would keep its stored dtype
        try:
            with quiet():
                return super().from_pretrained(str(path), **kwargs)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())[:300]})") from error

    @classmethod
    def _check_components(cls, folder: Path, given: Collection[str]) -> None:
        """Raise a ValueError that names the first component, of those not given, that the folder lacks."""
        if model_kind(folder) == "file":
            raise ValueError(f"{folder}: is a file, expected a folder of {cls.__name__} (from_image_model reads files)")
        index = cls.load_config(folder)
        for name in sorted(inspect.signature(cls.__init__).parameters.keys() - {"self", *given}):
            if name not in index:
                raise ValueError(
                    f"{folder}: component {name!r} is missing from {cls.config_name}; expected a folder of "
                    f"{cls.__name__}, got one of {index.get('_class_name')} (from_image_model reads image models)"
                )
            library, kind = index[name]
            if library is not None and not (folder / name).is_dir():
                raise ValueError(f"{folder}: component {name!r} is missing; expected {name}/ with a {kind} there")

    @classmethod
    def from_image_model(
        cls,
        path: Name,
        *,
        dtype: torch.dtype = torch.float32,
        config: Name | None = None,
        revision: str | None = None,
        variant: str | None = None,
    ) -> Self:
        """Start from Stable Diffusion 1.x: its UNet inflated, a zero-started pose encoder; on one frame, that model.

        Args:
            path: a diffusers folder, a single .safetensors or .ckpt file, a name of `followyourpose download`, or a hub
                id, "owner/name" or "owner/name/file", with "@revision".
            dtype: of all weights.
            config: for a single file, a diffusers folder, or a name of one, with its configs and tokenizer; None: those
                of a Stable Diffusion 1.x under checkpoints/, else diffusers takes them from its cache or the hub.
            revision: of a hub id; variant: of its weights, such as "fp16".

        Raises:
            ValueError: nothing is there, a component is missing or broken, or it is no Stable Diffusion 1.x.
        """
        source = resolved(path, "path", revision, variant)
        parts = load_image_model(source, dtype, None if config is None else resolved(config, "config"))
        unet = inflate(parts["unet"]).eval()
        pose_encoder = PoseEncoder(
            block_out_channels=unet.config.block_out_channels, downscale=vae_scale_factor(parts["vae"])
        )
        pose_encoder = pose_encoder if pose_encoder.dtype == dtype else pose_encoder.to(dtype)
        return cls(**parts | {"unet": unet, "pose_encoder": pose_encoder.eval()})

    def save_pretrained(self, save_directory: Name, *args: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write a folder for `from_pretrained`; arguments as for `DiffusionPipeline.save_pretrained`."""
        keys = ("repo_id", "commit_message", "private", "token", "create_pr")
        upload = {key: kwargs.pop(key) for key in keys if key in kwargs}
        folder = Path(save_directory)
        super().save_pretrained(str(folder), *args, **kwargs)
        for file in (folder / self.config_name, *folder.glob("*/config.json")):
            content = read_json(file)
            if content.pop("_name_or_path", None) is not None:  # a path of this machine means nothing elsewhere
                atomic_write(file, json.dumps(content, indent=2, sort_keys=True) + "\n")
        if push_to_hub:
            self._push(folder, upload.pop("repo_id", folder.absolute().name), **upload)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> Any:
        """Upload the pipeline to a repository of the hub, with a model card where there is none; as in diffusers."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            return self._push(Path(folder), repo_id, commit_message, private, token, create_pr, subfolder)

    def _push(
        self,
        folder: Path,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
    ) -> Any:
        repository = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        card = folder / "README.md"
        if not subfolder and not card.exists() and not file_exists(repository, card.name, token=token):
            atomic_write(card, _CARD.format(name=repository.rpartition("/")[2], repository=repository))
        return self._upload_folder(
            folder, repository, token=token, commit_message=commit_message, create_pr=create_pr, subfolder=subfolder
        )

    # ---- places -----------------------------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and cast all components, as `DiffusionPipeline.to` does, which would warn of each cast."""
        with quiet():
            return super().to(*args, **kwargs)

    def enable_group_offload(
        self, onload_device: torch.device | str, *args: Any, offload_to_disk_path: Name | None = None, **kwargs: Any
    ) -> None:
        """Offload groups of layers; arguments as for diffusers' method.

        On a disk every component has a folder of its own: two of them have layers of the same name. What an earlier
        process left there is removed.
        """
        if offload_to_disk_path is None:
            super().enable_group_offload(onload_device, *args, **kwargs)
            return
        excluded = kwargs.pop("exclude_modules", None) or []
        for name, component in self.components.items():
            if isinstance(component, nn.Module) and name not in ([excluded] if isinstance(excluded, str) else excluded):
                folder = Path(offload_to_disk_path) / name
                for stale in folder.glob("group_*.safetensors"):
                    stale.unlink()
                apply_group_offloading(component, onload_device, *args, offload_to_disk_path=str(folder), **kwargs)
            elif isinstance(component, nn.Module):
                component.to(onload_device)
