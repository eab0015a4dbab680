"""Loading that takes a folder's weights as a whole or not at all; for the UNet and the pose encoder."""

from os import PathLike
from typing import Any, Self


class StrictLoading:
    """Makes a diffusers model load only what fits: a missing or an extra weight is an error, not a warning."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """Loads a folder written by `save_pretrained`; arguments as for diffusers' `ModelMixin.from_pretrained`.

        Raises:
            ValueError: a weight is missing, extra or of another shape.
        """
        with_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        for problem, names in info.items():
            if names:
                raise ValueError(
                    f"{pretrained_model_name_or_path}: {len(names)} {problem.replace('_', ' ')} for {cls.__name__}, "
                    f"expected none; the first are {list(names)[:3]}"
                )
        return (model, info) if with_info else model
