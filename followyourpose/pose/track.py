"""People found frame by frame -> tracks: who is who, what is missing filled in, jitter smoothed, the largest kept.

Letters: n frames of a track, p people. Poses are (17, 3): x, y in pixels and a confidence. Pure functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from followyourpose.pose.similarity import box_overlap, object_keypoint_similarity
from followyourpose.pose.skeleton import NUM_JOINTS, SEEN

_LEAST = 0.3  # of similarity and overlap together: below, two poses are of two people
_ORDER = 2  # of the smoothing polynomial: it keeps speed and acceleration


@dataclass(frozen=True)
class Track:
    """One person in a clip.

    Attributes:
        start: its first frame.
        poses: (n, 17, 3), a pose for each frame from there on; confidence 0 where the person was not found.
    """

    start: int
    poses: np.ndarray


def link(frames: Sequence[Sequence[np.ndarray]], max_gap: int = 5, min_confidence: float = SEEN) -> list[Track]:
    """People per frame, each (17, 3), -> their tracks, by the frame in which they begin.

    Greedy: in every frame the pose and the track that are most alike belong together, then the next two, and so on.

    Args:
        max_gap: frames for which a person may be missing and still be the same.
        min_confidence: joints below it are not compared.
    """
    tracks: list[tuple[int, list[np.ndarray]]] = []  # start and poses
    last: dict[int, int] = {}  # track that may go on -> its last frame
    for number, people in enumerate(frames):
        last = {track: frame for track, frame in last.items() if number - frame <= max_gap + 1}
        alike = [
            (_alike(tracks[track][1][-1], person, min_confidence), track, index)
            for track in last
            for index, person in enumerate(people)
        ]
        owner: dict[int, int] = {}  # person -> track
        for likeness, track, index in sorted(alike, key=lambda each: -each[0]):
            if likeness >= _LEAST and track not in owner.values() and index not in owner:
                owner[index] = track
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
    """Puts joints that are not seen for at most `max_gap` frames on the line between where they were and will be."""
    poses = track.poses.copy()
    for joint in range(NUM_JOINTS):
        seen = np.flatnonzero(poses[:, joint, 2] >= min_confidence)
        for before, after in zip(seen[:-1], seen[1:], strict=True):
            if 1 < after - before <= max_gap + 1:
                share = np.linspace(0, 1, after - before + 1)[1:-1, None]
                filled = (1 - share) * poses[before, joint] + share * poses[after, joint]
                poses[before + 1 : after, joint] = filled
    return replace(track, poses=poses)


def smooth(track: Track, window: int, min_confidence: float = SEEN) -> Track:
    """Savitzky-Golay: fits a parabola to each joint's way through `window` frames and takes its middle.

    A joint is smoothed for as long as it is seen without a break; where that is shorter than the window, the window is.

    Args:
        window: an odd number of frames; 0 leaves the track as it is.

    Raises:
        ValueError: the window is none of these, or SciPy is not installed.
    """
    if window == 0:
        return track
    if window <= _ORDER or window % 2 == 0:
        raise ValueError(f"smooth: got {window}, expected 0, or an odd number of frames from 3")
    try:
        from scipy.signal import savgol_filter
    except ImportError as error:
        raise ValueError('smooth: SciPy is not installed; pip install "followyourpose[pose]"') from error
    poses = track.poses.copy()
    for joint in range(NUM_JOINTS):
        seen = np.flatnonzero(poses[:, joint, 2] >= min_confidence)
        for run in np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1):
            length = min(window, len(run) - (len(run) + 1) % 2)  # odd
            if length > _ORDER:
                poses[run, joint, :2] = savgol_filter(poses[run, joint, :2], length, _ORDER, axis=0)
    return replace(track, poses=poses)


def largest(tracks: Sequence[Track], count: int, min_confidence: float = SEEN) -> list[Track]:
    """The tracks with at most `count` people in a frame: the more prominent go first.

    A track keeps the frames in which there is room for it: somebody lost and found again stays, as two tracks.
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
    """Tracks -> for each of `total` frames the people in it, (17, 3) each, and the numbers of their tracks."""
    people: list[list[np.ndarray]] = [[] for _ in range(total)]
    ids: list[list[int]] = [[] for _ in range(total)]
    for number, track in enumerate(tracks):
        for index in np.flatnonzero(_is_seen(track, min_confidence)):
            people[track.start + index].append(track.poses[index])
            ids[track.start + index].append(number)
    return people, ids


def prominence(track: Track, min_confidence: float = SEEN) -> float:
    """The squares of a person's area in pixels, added up over the frames.

    So size and time both count, and size more: neither does a ghost of one frame take the place of who is there, nor
    a passer-by in the background that of somebody large who was lost for a while.
    """
    seen = track.poses[..., 2:] >= min_confidence
    low = np.where(seen, track.poses[..., :2], np.inf).min(1)
    high = np.where(seen, track.poses[..., :2], -np.inf).max(1)
    return float(np.square(np.clip(high - low, 0, None).prod(-1), dtype=np.float64).sum())


def _alike(first: np.ndarray, second: np.ndarray, min_confidence: float) -> float:
    """From 0 to 2: the similarity of two poses (17, 3), which sees limbs, and the overlap of their boxes, which still
    sees a person who moved far."""
    both = (first[:, 2] >= min_confidence) & (second[:, 2] >= min_confidence)
    if not both.any():
        return 0.0
    return object_keypoint_similarity(second, first * both[:, None]) + box_overlap(first[both, :2], second[both, :2])


def _is_seen(track: Track, min_confidence: float) -> np.ndarray:
    """(n,) whether any joint is seen."""
    return (track.poses[..., 2] >= min_confidence).any(1)
