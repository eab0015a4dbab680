"""Metrics: arrays in, numbers out.

    metric                       function                           of                 best    file
    CS                           clip_score                         embeddings         100     embeddings
    FC: consecutive, all, first  frame_consistency                  embeddings         100
    background consistency       background_consistency             embeddings         1
    FID, FVD                     frechet_distance                   features           0
    PA                           average_precision of match_people  poses              1       poses
    PCK@0.1, PCK@0.05            pck                                poses              1
    jitter                       jitter                             poses              0
    flicker                      flicker                            frames and masks   0       frames
    temporal flickering          temporal_flickering                frames             1
    PSNR, SSIM                   psnr, ssim                         frames and others  inf, 1
    sharpness                    sharpness                          the same, masks    1

`bootstrap_interval` is the interval of each over videos.
"""

from followyourpose.evaluation.metrics.embeddings import (
    FC_PAIRS,
    background_consistency,
    clip_score,
    frame_consistency,
    frechet_distance,
    top1,
)
from followyourpose.evaluation.metrics.frames import (
    body_mask,
    border_change,
    flicker,
    psnr,
    sharpness,
    ssim,
    temporal_flickering,
)
from followyourpose.evaluation.metrics.intervals import bootstrap_interval
from followyourpose.evaluation.metrics.poses import (
    OKS_THRESHOLDS,
    Matches,
    average_precision,
    jitter,
    match_people,
    nobody_found,
    pck,
)

__all__ = [
    "FC_PAIRS", "OKS_THRESHOLDS", "Matches", "average_precision", "background_consistency", "body_mask",
    "bootstrap_interval", "border_change", "clip_score", "flicker", "frame_consistency", "frechet_distance",
    "jitter", "match_people", "nobody_found", "pck", "psnr", "sharpness", "ssim", "temporal_flickering", "top1",
]  # fmt: skip
