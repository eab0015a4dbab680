"""CLIP features of frames and captions (Radford et al., 2021), from a folder with a CLIPModel and its tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from followyourpose.common.files import read_json
from followyourpose.common.pictures import check_frames
from followyourpose.models.loading import load_network

# Statistics that bring pixels from [0, 1] to [-1, 1], the range of a CLIP trained here.
_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class ClipFeatures:
    """CLIP embeddings of length 1 of frames and captions; their dot product is the cosine similarity.

    Args:
        folder: a CLIPModel with its tokenizer's files, as `save_pretrained` writes them; `image_mean` and `image_std`
            are read from its preprocessor_config.json; without one pixels are given in [-1, 1].
        batch_size: frames or captions per pass.

    Raises:
        ValueError: the folder holds no model or no tokenizer, or a file cannot be read; a weight is missing or of
            another shape.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu", batch_size: int = 64) -> None:
        folder = Path(folder)
        for names in (("config.json",), ("tokenizer.json", "vocab.json")):
            if not any((folder / name).is_file() for name in names):
                raise ValueError(f"{folder}: no {' or '.join(names)}, expected the folder of a CLIPModel")
        self.model = load_network(folder, CLIPModel, ignore_mismatched_sizes=True).float().eval().to(device)
        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"{folder}: cannot be read as a CLIPTokenizer ({' '.join(str(error).split())})") from error
        self.batch_size = batch_size
        self.mean, self.std = (each.to(device) for each in _statistics(folder / "preprocessor_config.json"))

    @torch.no_grad()
    def images(self, frames: np.ndarray) -> np.ndarray:
        """Embed frames (n, H, W, 3) uint8 as (n, d) float32 of length 1.

        A frame is resized (bicubic) until its shorter side is the model's, then cropped to the square in its middle.
        """
        check_frames(frames, least=1)
        chunks = [frames[i : i + self.batch_size] for i in range(0, len(frames), self.batch_size)]
        return np.concatenate([self._embed_images(chunk) for chunk in chunks])

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> np.ndarray:
        """Embed k captions as (k, d) float32 of length 1; words beyond the model's length are cut."""
        length = self.model.config.text_config.max_position_embeddings
        embeddings = []
        for start in range(0, len(captions), self.batch_size):
            chunk = list(captions[start : start + self.batch_size])
            tokens = self.tokenizer(
                chunk, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            )
            # No padding mask: attention is causal, and the embedding is that of the end token, which padding follows.
            text = self.model.text_model(input_ids=tokens.input_ids.to(self.model.device)).pooler_output
            embeddings.append(F.normalize(self.model.text_projection(text), dim=-1).float().cpu().numpy())
        return np.concatenate(embeddings)

    def _embed_images(self, frames: np.ndarray) -> np.ndarray:
        side = self.model.config.vision_config.image_size
        pixels = torch.from_numpy(frames.copy()).to(self.model.device).movedim(-1, 1).float() / 255
        height, width = pixels.shape[-2:]
        ratio = side / min(height, width)
        size = max(side, round(height * ratio)), max(side, round(width * ratio))
        if size != (height, width):
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        pixels = (pixels[..., top : top + side, left : left + side] - self.mean) / self.std
        image = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(image), dim=-1).float().cpu().numpy()


def _statistics(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the standard deviation of pixels, (3, 1, 1) each, of a preprocessor_config.json."""
    settings = read_json(file) if file.is_file() else {}
    try:
        mean, std = (torch.tensor(settings.get(key, default), dtype=torch.float32).view(3, 1, 1)
                     for key, default in (("image_mean", _MEAN), ("image_std", _STD)))  # fmt: skip
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file}: image_mean, image_std: expected three numbers each ({error})") from error
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise ValueError(f"{file}: image_mean, image_std: expected finite numbers, image_std above 0")
    return mean, std
