"""`followyourpose study score`: raters' files of answers -> how often each system was chosen.

An answer counts once and whole: a row that does not belong to the study is an error, with its file and line.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from followyourpose.common.checks import counted
from followyourpose.common.files import atomic_write, errors_named, read_json, read_text
from followyourpose.common.tables import markdown_table

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
        raise ValueError(f"got {chosen} of {counted(count, 'answer')}, expected at least one answer")
    p, z = chosen / count, NormalDist().inv_cdf((1 + level) / 2)
    centre = p + z**2 / (2 * count)
    half = z * sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def score_study(key: str | Path, answers: Sequence[str | Path], output: str | Path | None = None) -> str:
    """Return the table of a study as Markdown; the numbers of `score` go to `output`, a .json file.

    Raises:
        ValueError: the key or an answer is not as the page writes them, or `output` is there already or cannot be
            written.
    """
    if output is not None and Path(output).exists():
        raise ValueError(f"{output}: is there already; give another, nothing is overwritten")
    content = read_key(key)
    result = score(content, read_answers(content, answers))
    if output is not None:
        with errors_named(Path(output)):
            atomic_write(Path(output), json.dumps(result, indent=2) + "\n")
    return format_score(result)


# ---- reading --------------------------------------------------------------------------------------------------------


def read_key(path: str | Path) -> dict[str, Any]:
    """Return the content of a key.json, as `make_study` writes it.

    Raises:
        ValueError: it cannot be read, or is something else.
    """
    key = read_json(Path(path))
    try:
        systems = {system for item in key["items"].values() for system in item["videos"].values()}
        questions, study = key["questions"], key["study"]
        fit = systems == set(key["systems"]) and questions and isinstance(questions, dict) and isinstance(study, str)
    except (KeyError, TypeError, AttributeError):
        fit = False
    if not fit:
        raise ValueError(f"{path}: not a key.json as `study make` writes it: study, systems, questions and items")
    return key


def read_answers(key: dict[str, Any], paths: Sequence[str | Path]) -> list[Answer]:
    """Return all answers of the files, each checked against the key.

    Raises:
        ValueError: a file is no such table, of another study, or cut off; an answer is to no question of the study or
            is repeated; or a rater's answers are not complete. The message names the file and the line.
    """
    answers: dict[tuple[str, str, str], Answer] = {}
    for path in paths:
        mine: dict[str, set[tuple[str, str]]] = {}  # rater -> items and questions answered in this file
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
        steps = [(item, question) for item in key["items"] for question in key["questions"]]
        for rater, answered in mine.items():
            if missing := [step for step in steps if step not in answered]:
                raise ValueError(
                    f"{path}: rater {rater}: got {len(answered)} of {counted(len(steps), 'answer')}, none to "
                    f"{missing[0][1]} of {missing[0][0]}; is it cut off?"
                )
    return list(answers.values())


def _read_file(key: dict[str, Any], path: Path) -> list[Answer]:
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = next(rows, None)
        if header is None or tuple(header) != COLUMNS:
            raise ValueError(f"{path}: line 1: got {','.join(header or []) or 'nothing'}, {_EXPECTED}")
        return [_parse(key, row, f"{path}: line {rows.line_num}") for row in rows if row]
    except csv.Error as error:
        raise ValueError(f"{path}: not a table of answers ({error})") from error


def _parse(key: dict[str, Any], row: list[str], place: str) -> Answer:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{place}: got {counted(len(row), 'column')}, {_EXPECTED}; is it cut off?")
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
    if not re.fullmatch("[0-9]{1,9}", position) or not 1 <= int(position) <= len(videos):
        raise ValueError(f"{place}: position: got {position!r}, expected a number from 1 to {len(videos)}")
    if not re.fullmatch("[0-9]{1,20}", rater) or not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{,20})?", seconds):
        raise ValueError(f"{place}: rater and seconds: got {rater!r} and {seconds!r}, expected two numbers")
    return Answer(rater, item, question, int(position), float(seconds), videos[choice], place)


# ---- counting -------------------------------------------------------------------------------------------------------


def score(key: dict[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return per question each system's share of all answers and, pair by pair, its share of those for either.

    Beside them the raters, with their time per answer, and how often each position was chosen: both show raters who
    did not look.
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
    """Return a share in percent, with its interval; both None where no answer is for either."""
    interval = None if count == 0 else [100 * end for end in wilson_interval(chosen, count)]
    return {"chosen": chosen, "of": count, "percent": None if count == 0 else 100 * chosen / count, "ci95": interval}


def format_score(result: dict[str, Any]) -> str:
    """Return the result of `score` as Markdown: a row per question and system and, of more than two, per pair."""
    raters, seconds = len(result["raters"]), median(each["median_seconds"] for each in result["raters"].values())
    answers = counted(result["answers"], "answer")
    rows = []
    for question, shares in result["questions"].items():
        rows += [[question, system, *_cells(share)] for system, share in shares["systems"].items()]
        if len(shares["systems"]) > 2:
            rows += [[question, f"{pair['system']} over {pair['over']}", *_cells(pair)] for pair in shares["pairs"]]
    rows += [["any", f"position {number}", *_cells(share)] for number, share in enumerate(result["positions"], 1)]
    table = markdown_table(["question", "system", "chosen", "%", "95 % interval"], rows)
    return f"{answers} of {counted(raters, 'rater')}, {seconds:.1f} seconds each (median).\n\n{table}"


def _cells(share: dict[str, Any]) -> list[str]:
    if share["ci95"] is None:
        return ["0 of 0", "-", "-"]
    low, high = share["ci95"]
    return [f"{share['chosen']} of {share['of']}", f"{share['percent']:.1f}", f"{low:.1f} to {high:.1f}"]
