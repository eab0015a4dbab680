"""Tracks of people found frame by frame: identities, filled gaps, smoothing, selection of the largest.

Letters: n frames of a track, p people. Poses are (17, 3): x, y in pixels and a confidence. Pure functions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from followyourpose.common.checks import check_installed
from followyourpose.pose.similarity import best_pairs, box_overlap, object_keypoint_similarity
from followyourpose.pose.skeleton import NUM_JOINTS, SEEN

_LEAST = 0.3  # of similarity and overlap together, for two poses of one person
_ORDER = 2  # of the smoothing polynomial: it keeps speed and acceleration


@dataclass(frozen=True)
class Track:
    """One person in a clip."""

    start: int  # first frame
    poses: np.ndarray  # (n, 17, 3), a pose for each frame from there on; confidence 0 where the person was not found


def link(frames: Sequence[Sequence[np.ndarray]], max_gap: int = 5, min_confidence: float = SEEN) -> list[Track]:
    """Link people per frame, (17, 3) each, to tracks in the order of their first frames.

    Greedy: in every frame the most similar pose and track belong together, then the next two, and so on.

    Args:
        max_gap: frames for which a person may be missing and stay the same.
        min_confidence: joints below it are not compared.
    """
    tracks: list[tuple[int, list[np.ndarray]]] = []  # start and poses
    last: dict[int, int] = {}  # track that may go on -> its last frame
    for number, people in enumerate(frames):
        last = {track: frame for track, frame in last.items() if number - frame <= max_gap + 1}
        alive = list(last)
        alike = np.array([[_similarity(tracks[t][1][-1], person, min_confidence) for person in people] for t in alive])
        pairs = best_pairs(alike.reshape(len(alive), len(people)))
        owner = {index: alive[i] for i, index in pairs.items() if alike[i, index] >= _LEAST}  # person -> track
        for index, person in enumerate(people):
            if index not in owner:
                owner[index] = len(tracks)
                tracks.append((number, []))
            start, poses = tracks[owner[index]]
            poses.extend(np.zeros_like(person) for _ in range(number - start - len(poses)))
            poses.append(person)
            last[owner[index]] = number
    return [Track(start, np.stack(poses).astype(np.float32)) for start, poses in tracks]


def fill_gaps(track: Track, max_gap: int = 5, min_confidence: float = SEEN) -> Track:
    """Interpolate joints that are unseen for at most `max_gap` frames, linearly between the frames around the gap."""
    poses = track.poses.copy()
    for joint, seen in _seen_frames(track, min_confidence):
        for before, after in zip(seen[:-1], seen[1:], strict=True):
            if 1 < after - before <= max_gap + 1:
                share = np.linspace(0, 1, after - before + 1)[1:-1, None]
                filled = (1 - share) * poses[before, joint] + share * poses[after, joint]
                poses[before + 1 : after, joint] = filled
    return replace(track, poses=poses)


def smooth(track: Track, window: int, min_confidence: float = SEEN) -> Track:
    """Smooth by Savitzky-Golay: a parabola is fitted to each joint's path through `window` frames, its middle taken.

    Each unbroken run of frames in which a joint is seen is smoothed by itself, with a shorter window where it is short.

    Args:
        window: an odd number of frames from 3; 0 leaves the track as it is.

    Raises:
        ValueError: SciPy is not installed.
    """
    check_smoothing(window)
    if window == 0:
        return track
    from scipy.signal import savgol_filter

    poses = track.poses.copy()
    for joint, seen in _seen_frames(track, min_confidence):
        for run in np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1):
            length = min(window, len(run) - (len(run) + 1) % 2)  # odd
            if length > _ORDER:
                poses[run, joint, :2] = savgol_filter(poses[run, joint, :2], length, _ORDER, axis=0)
    return replace(track, poses=poses)


def check_smoothing(window: int) -> None:
    """Raise a ValueError where a window of `smooth` needs SciPy and it is not installed; nothing is loaded."""
    if window:
        check_installed("smooth", "pose", "scipy")


def largest(tracks: Sequence[Track], count: int, min_confidence: float = SEEN) -> list[Track]:
    """Keep at most `count` people per frame, in the order of their prominence.

    A track keeps the frames that have room for it: somebody lost and found again stays, as two tracks.
    """
    seen = [_is_seen(track, min_confidence) for track in tracks]
    order = np.argsort([-prominence(track, min_confidence) for track in tracks], kind="stable")
    end = max((track.start + len(track.poses) for track in tracks), default=0)
    taken, kept = np.zeros(end, int), {}
    for index in order:
        track = tracks[index]
        span = slice(track.start, track.start + len(track.poses))
        stays = seen[index] & (taken[span] < count)
        if stays.any():
            taken[span] += stays
            kept[index] = replace(track, poses=track.poses * stays[:, None, None])
    return [kept[index] for index in sorted(kept)]


def per_frame(
    tracks: Sequence[Track], total: int, min_confidence: float = SEEN
) -> tuple[list[list[np.ndarray]], list[list[int]]]:
    """Tracks -> for each of `total` frames its people, (17, 3) each, and the indices of their tracks."""
    people: list[list[np.ndarray]] = [[] for _ in range(total)]
    ids: list[list[int]] = [[] for _ in range(total)]
    for number, track in enumerate(tracks):
        for index in np.flatnonzero(_is_seen(track, min_confidence)):
            people[track.start + index].append(track.poses[index])
            ids[track.start + index].append(number)
    return people, ids


def prominence(track: Track, min_confidence: float = SEEN) -> float:
    """Sum over the frames of the squared area of a person's box, in pixels.

    Size counts more than time: neither a false detection of one frame nor a passer-by in the background takes the place
    of somebody large who was lost for a while.
    """
    seen = track.poses[..., 2:] >= min_confidence
    low = np.where(seen, track.poses[..., :2], np.inf).min(1)
    high = np.where(seen, track.poses[..., :2], -np.inf).max(1)
    return float(np.square(np.clip(high - low, 0, None).prod(-1), dtype=np.float64).sum())


def _similarity(first: np.ndarray, second: np.ndarray, min_confidence: float) -> float:
    """Object keypoint similarity of two poses (17, 3), which compares limbs, and box overlap, which follows a person
    over a large step: 0 to 2."""
    both = (first[:, 2] >= min_confidence) & (second[:, 2] >= min_confidence)
    if not both.any():
        return 0.0
    return object_keypoint_similarity(second, first * both[:, None]) + box_overlap(first[both, :2], second[both, :2])


def _seen_frames(track: Track, min_confidence: float) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each joint and the indices of the frames that show it."""
    for joint in range(NUM_JOINTS):
        yield joint, np.flatnonzero(track.poses[:, joint, 2] >= min_confidence)


def _is_seen(track: Track, min_confidence: float) -> np.ndarray:
    """Frames (n,) that show any joint."""
    return (track.poses[..., 2] >= min_confidence).any(1)
