"""CS and FC of the paper's Table 1, VBench's background consistency, FID and FVD, from given features.

A number depends on the network that gave the features: report the network beside it.
Letters: f frames, n m samples, d embedding width, k captions.
"""

import numpy as np

from followyourpose.common.checks import check_choice
from followyourpose.evaluation.metrics.checks import check_finite

FC_PAIRS = ("consecutive", "all", "first")


def clip_score(image_embeddings: np.ndarray, text_embedding: np.ndarray) -> float:
    """CS: mean cosine of frames' embeddings (f, d) and their caption's (d,), x100; in [-100, 100].

    CLIPScore of Hessel et al. (2021) with weight 100 and without its cut at 0, as in the paper's Table 1.

    Raises:
        ValueError: the shapes do not fit, there is no frame, or a number is not finite.
    """
    image = _unit(image_embeddings, "image_embeddings", least=1)
    text = _unit(np.asarray(text_embedding)[None], "text_embedding", least=1, width=image.shape[1])
    return float(100 * (image @ text[0]).mean())


def frame_consistency(embeddings: np.ndarray, pairs: str = "consecutive") -> float:
    """FC: mean cosine of pairs of frames' embeddings (f, d), x100; in [-100, 100].

    Args:
        pairs: "consecutive", each frame with the next (Gen-1, Esser et al., 2023; the paper's Table 1); "all", each
            with each other (Tune-A-Video, Wu et al., 2023); "first", the first with each later one.

    Raises:
        ValueError: `pairs` is unknown, there are fewer than two frames, or a number is not finite.
    """
    check_choice("pairs", pairs, FC_PAIRS)
    unit = _unit(embeddings, "embeddings", least=2)
    i, j = np.triu_indices(len(unit), k=1)
    chosen = {"consecutive": j - i == 1, "all": j > i, "first": i == 0}[pairs]
    return float(100 * (unit @ unit.T)[i[chosen], j[chosen]].mean())


def background_consistency(embeddings: np.ndarray) -> float:
    """VBench's background consistency of frames' embeddings (f, d), in [0, 1].

    Mean over all frames but the first of (max(0, cos(frame, first)) + max(0, cos(frame, previous))) / 2
    (Huang et al., 2024; background_consistency.py of VBench, on whole frames, by CLIP ViT-B/32).

    Raises:
        ValueError: there are fewer than two frames, or a number is not finite.
    """
    unit = _unit(embeddings, "embeddings", least=2)
    to_first, to_previous = unit[1:] @ unit[0], (unit[1:] * unit[:-1]).sum(-1)
    return float((to_first.clip(min=0) + to_previous.clip(min=0)).mean() / 2)


def top1(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> int:
    """Return the index of the caption (k, d) nearest to the mean embedding of a video's frames (f, d).

    Raises:
        ValueError: the shapes do not fit, there is no frame or no caption, or a number is not finite.
    """
    image = _unit(image_embeddings, "image_embeddings", least=1)
    return int((_unit(text_embeddings, "text_embeddings", 1, image.shape[1]) @ image.mean(0)).argmax())


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Squared distance of the gaussians fitted to features (n, d) and to a reference (m, d); 0 where they are equal.

        |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)),    S: covariance over n - 1

    FID (Heusel et al., 2017) where a sample is a frame and the features are Inception's, FVD (Unterthiner et al., 2018)
    where it is a video and they are I3D's. The bias falls as samples are added: compare equal n only.

    With S_1 = A^T A and S_2 = B^T B the trace of the root is the sum of the singular values of A B^T. No matrix root
    is taken, so covariances may be singular, as with fewer samples than features.

    Raises:
        ValueError: a side has fewer than two samples, the widths differ, or a number is not finite.
    """
    _check(features, "features", least=2)
    _check(reference, "reference", least=2, width=features.shape[1])
    (mean_1, a), (mean_2, b) = _gaussian(features), _gaussian(reference)
    trace = np.square(a).sum() + np.square(b).sum() - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(0.0, float(np.square(mean_1 - mean_2).sum() + trace))


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,) of features (n, d) and a factor A (min(n, d), d) of their covariance A^T A."""
    features = features.astype(np.float64)
    mean = features.mean(0)
    return mean, np.linalg.qr((features - mean) / np.sqrt(len(features) - 1), mode="r")


def _unit(embeddings: np.ndarray, name: str, least: int, width: int | None = None) -> np.ndarray:
    """Return embeddings (n, d) scaled to length 1, float64."""
    _check(embeddings, name, least, width)
    embeddings = np.asarray(embeddings, np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True).clip(min=1e-12)


def _check(features: np.ndarray, name: str, least: int, width: int | None = None) -> None:
    shape = np.shape(features)
    if len(shape) != 2 or shape[0] < least or shape[1] != (width or shape[1]):
        raise ValueError(f"{name}: got {shape}, expected (n, {width or 'd'}) with n >= {least}")
    check_finite(**{name: features})
