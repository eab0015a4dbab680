"""Scores a user study: the files that raters downloaded from its page -> how often each system was chosen.

An answer counts once and whole: whatever does not belong to the study stops the count, with its file and line.
"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

COLUMNS = ("study", "rater", "step", "item", "question", "position", "seconds", "choice")
_EXPECTED = f"expected {','.join(COLUMNS)}"


@dataclass(frozen=True)
class Answer:
    """One choice of one rater. `position` counts from 1, from the left; `place` is its file and line."""

    rater: str
    item: str
    question: str
    position: int
    seconds: float
    system: str
    place: str


def wilson_interval(chosen: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, chosen / count, in [0, 1] (Wilson, JASA 22, 1927).

        (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n)

    It takes the answers for independent of one another, though those of one rater are not quite.

    Raises:
        ValueError: there is no answer, or more are chosen than there are.
    """
    if not 0 <= chosen <= count or count == 0:
        raise ValueError(f"got {chosen} of {count} answers, expected at least one answer")
    p, z = chosen / count, NormalDist().inv_cdf((1 + level) / 2)
    centre = p + z**2 / (2 * count)
    half = z * sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def score_study(key: str | Path, answers: Sequence[str | Path], output: str | Path | None = None) -> str:
    """The table of a study, as markdown; `output` is a .json file that gets the numbers of `score`.

    Raises:
        ValueError: the key or an answer is not as the page writes them, or `output` is there already.
    """
    if output is not None and Path(output).exists():
        raise ValueError(f"{output}: is there already; give another, nothing is overwritten")
    known = read_key(key)
    result = score(known, read_answers(known, answers))
    if output is not None:
        Path(output).write_text(json.dumps(result, indent=2) + "\n")
    return format_score(result)


# ---- reading --------------------------------------------------------------------------------------------------------


def read_key(path: str | Path) -> dict[str, Any]:
    """The content of a key.json, as `make_study` writes it.

    Raises:
        ValueError: it cannot be read, or is something else.
    """
    try:
        key = json.loads(Path(path).read_text(encoding="utf-8"))
        whose = {system for item in key["items"].values() for system in item["videos"].values()}
        if whose != set(key["systems"]) or not key["questions"] or not isinstance(key["study"], str):
            raise ValueError("it does not say which videos are whose")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the key.json of a study ({type(error).__name__}: {error})") from error
    return key


def read_answers(key: dict[str, Any], paths: Sequence[str | Path]) -> list[Answer]:
    """All answers of the files, each checked against the key.

    Raises:
        ValueError: a file is no such table, or of another study, or cut off; an answer is to nothing that was asked, or
            there twice; or a rater's answers are not complete. The message names the file and the line.
    """
    answers: dict[tuple[str, str, str], Answer] = {}
    for path in paths:
        mine: dict[str, set[tuple[str, str]]] = {}  # rater -> what this file answers
        for answer in _read_file(key, Path(path)):
            what = (answer.rater, answer.item, answer.question)
            if what in answers:
                raise ValueError(
                    f"{answer.place}: rater {answer.rater} answered {answer.question} of {answer.item} before, in "
                    f"{answers[what].place}; expected each answer once"
                )
            answers[what] = answer
            mine.setdefault(answer.rater, set()).add(what[1:])
        if not mine:
            raise ValueError(f"{path}: no answer in it, expected some after line 1; is it cut off?")
        asked = [(item, question) for item in key["items"] for question in key["questions"]]
        for rater, answered in mine.items():
            if missing := [what for what in asked if what not in answered]:
                raise ValueError(
                    f"{path}: rater {rater}: got {len(answered)} of {len(asked)} answers, none to {missing[0][1]} of "
                    f"{missing[0][0]}; is it cut off?"
                )
    return list(answers.values())


def _read_file(key: dict[str, Any], path: Path) -> list[Answer]:
    answers = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # sig: a spreadsheet may have put a mark there
            rows = csv.reader(file)
            header = next(rows, None)
            if header is None or tuple(header) != COLUMNS:
                raise ValueError(f"{path}: line 1: got {','.join(header or []) or 'nothing'}, {_EXPECTED}")
            answers += [_parse(key, row, f"{path}: line {rows.line_num}") for row in rows if row]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a table of answers ({error})") from error
    return answers


def _parse(key: dict[str, Any], row: list[str], place: str) -> Answer:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{place}: got {len(row)} columns, {_EXPECTED}; is it cut off?")
    study, rater, _, item, question, position, seconds, choice = row
    if study != key["study"]:
        raise ValueError(f"{place}: got an answer to study {study!r}, expected {key['study']!r}: another key's")
    if item not in key["items"]:
        raise ValueError(f"{place}: item: got {item!r}, which the study does not have")
    if question not in key["questions"]:
        raise ValueError(f"{place}: question: got {question!r}, expected one of {', '.join(key['questions'])}")
    videos = key["items"][item]["videos"]
    if choice not in videos:
        raise ValueError(f"{place}: choice: got {choice!r}, expected one of {', '.join(sorted(videos))}")
    if not position.isdecimal() or not 1 <= int(position) <= len(videos):
        raise ValueError(f"{place}: position: got {position!r}, expected a number from 1 to {len(videos)}")
    if not rater.isdecimal() or not seconds.replace(".", "", 1).isdecimal():
        raise ValueError(f"{place}: rater and seconds: got {rater!r} and {seconds!r}, expected two numbers")
    return Answer(rater, item, question, int(position), float(seconds), videos[choice], place)


# ---- counting -------------------------------------------------------------------------------------------------------


def score(key: dict[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    """Per question each system's share of all answers and, pair by pair, its share of those for either of the two.

    Beside them the raters, with how long an answer took them, and how often each position was chosen: both show raters
    who did not look.
    """
    systems, questions = list(key["systems"]), {}
    for question, text in key["questions"].items():
        counts = Counter(answer.system for answer in answers if answer.question == question)
        pairs = [(one, other) for i, one in enumerate(systems) for other in systems[i + 1 :]]
        questions[question] = {
            "text": text,
            "systems": {system: _share(counts[system], counts.total()) for system in systems},
            "pairs": [
                {"system": one, "over": other, **_share(counts[one], counts[one] + counts[other])}
                for one, other in pairs
            ],
        }
    times: dict[str, list[float]] = {}
    for answer in answers:
        times.setdefault(answer.rater, []).append(answer.seconds)
    positions = Counter(answer.position for answer in answers)
    return {
        "study": key["study"],
        "answers": len(answers),
        "questions": questions,
        "positions": [_share(positions[number + 1], len(answers)) for number in range(len(systems))],
        "raters": {rater: {"answers": len(each), "median_seconds": median(each)} for rater, each in times.items()},
    }


def _share(chosen: int, count: int) -> dict[str, Any]:
    """A share in percent, with its interval; both None where nobody chose either."""
    interval = None if count == 0 else [100 * end for end in wilson_interval(chosen, count)]
    return {"chosen": chosen, "of": count, "percent": None if count == 0 else 100 * chosen / count, "ci95": interval}


def format_score(result: dict[str, Any]) -> str:
    """The result of `score` as markdown: a line per question and system and, of more than two, per pair."""
    raters, seconds = len(result["raters"]), median(each["median_seconds"] for each in result["raters"].values())
    lines = [
        f"{result['answers']} answers of {raters} rater{'s' * (raters > 1)}, {seconds:.1f} seconds each (median).", "",
        "| question | system | chosen | % | 95 % interval |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for question, shares in result["questions"].items():
        lines += [f"| {question} | {system} | {_cells(share)} |" for system, share in shares["systems"].items()]
        if len(shares["systems"]) > 2:
            lines += [f"| {question} | {p['system']} over {p['over']} | {_cells(p)} |" for p in shares["pairs"]]
    lines += [f"| any | position {number} | {_cells(share)} |" for number, share in enumerate(result["positions"], 1)]
    return "\n".join(lines)


def _cells(share: dict[str, Any]) -> str:
    if share["ci95"] is None:
        return "0 of 0 | - | -"
    low, high = share["ci95"]
    return f"{share['chosen']} of {share['of']} | {share['percent']:.1f} | {low:.1f} to {high:.1f}"
