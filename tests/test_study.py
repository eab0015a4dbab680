"""A user study: the page is blind to the systems, and only whole, fitting answers are counted."""

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from followyourpose.common import files
from followyourpose.config import ConfigError, StudyConfig, build_config
from followyourpose.data.video_io import VideoError, probe, read_frames, write_gif, write_video
from followyourpose.pose.keypoints_file import ClipKeypoints, write_keypoints
from followyourpose.study.make import QUESTIONS, make_study, match_videos, read_questions, study_page
from followyourpose.study.score import (
    COLUMNS,
    format_score,
    read_answers,
    score,
    score_study,
    wilson_interval,
)

COLUMNS_LINE = ",".join(COLUMNS).encode()
KEY = {
    "study": "s1",
    "questions": {"quality": "Which?", "text": "Which fits?"},
    "systems": {"ours": "a", "theirs": "b", "others": "c"},
    "items": {
        name: {"name": name, "prompt": None, "skeleton": None, "videos": {f"{name}{s}": s for s in systems}}
        for name, systems in (("p", ("ours", "theirs", "others")), ("q", ("ours", "theirs", "others")))
    },
}


def write_videos(folder: Path, *names: str, frames: int = 3, fps: float = 8, value: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        write_video(folder / f"{name}.mp4", np.full((frames, 16, 16, 3), value, np.uint8), fps)
    return folder


def write_run(folder: Path, prompt: str = "a cat") -> Path:
    """A run as generate leaves it: black frames beside white skeletons."""
    write_videos(folder, "00-cat")
    pair = np.concatenate([np.full((3, 16, 16, 3), 255, np.uint8), np.zeros((3, 16, 16, 3), np.uint8)], axis=2)
    write_video(folder / "00-cat-with-skeleton.mp4", pair, 8)
    write_gif(folder / "00-cat.gif", pair, 8)
    files = ["00-cat.mp4", "00-cat.gif", "00-cat-sheet.png", "00-cat-with-skeleton.mp4"]
    (folder / "run.json").write_text(json.dumps({"videos": [{"prompt": prompt, "files": files}]}))
    return folder


def config(output: Path, manifest: Path | None = None, **systems: Path) -> StudyConfig:
    folders = {system: str(folder) for system, folder in systems.items()}
    return StudyConfig(systems=folders, output=str(output), manifest=manifest and str(manifest))


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_blind_to_systems_and_files(tmp_path: Path) -> None:
    systems = {"ours": "boy", "theirs": "boy"}
    folders = {system: write_videos(tmp_path / system, "boy-7", "cat-8") for system in systems}
    folder = make_study(config(tmp_path / "study", **folders))
    html, key = (
        (folder / "index.html").read_text(encoding="utf-8"),
        json.loads((folder / "key.json").read_text(encoding="utf-8")),
    )
    assert not any(word in html for word in ("ours", "theirs", "boy-7", "cat-8", "key.json"))
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "key.json", "videos"]
    names = [name for item in key["items"].values() for name in item["videos"]]
    assert sorted(path.stem for path in (folder / "videos").iterdir()) == sorted(names) and len(set(names)) == 4
    assert all(name in html for name in names)
    assert [item["name"] for item in key["items"].values()] == ["boy-7", "cat-8"]
    again = make_study(config(tmp_path / "again", **folders))
    assert set(json.loads((again / "key.json").read_text(encoding="utf-8"))["items"]).isdisjoint(key["items"])


def test_a_video_is_under_the_name_that_the_key_gives_to_its_system(tmp_path: Path) -> None:
    folders = {f"s{value}": write_videos(tmp_path / f"s{value}", "a", value=value) for value in (0, 90, 250)}
    folder = make_study(config(tmp_path / "study", **folders))
    (item,) = json.loads((folder / "key.json").read_text(encoding="utf-8"))["items"].values()
    for name, system in item["videos"].items():
        frames = read_frames(folder / "videos" / f"{name}.mp4")
        assert frames.shape == (3, 16, 16, 3) and abs(frames.mean() - int(system[1:])) < 5


def test_the_page_is_self_contained_and_text_is_never_markup() -> None:
    prompt = "</script><script>alert('x')</script> & {{study}} „ü“"
    items = {"p": {"prompt": prompt, "skeleton": None, "videos": {"b": "ours", "a": "theirs"}}}
    html = study_page("s1", {"quality": "Which?"}, items)
    assert "://" not in html and html.count("<script") == html.count("</script") == 2 and " src=" not in html
    assert '<meta name="viewport" content="width=device-width' in html and '<meta charset="utf-8">' in html
    data = json.loads(html.split('id="study">')[1].split("</script>")[0])
    assert data["items"] == [{"item": "p", "prompt": prompt, "skeleton": None, "videos": ["a", "b"]}]


def test_runs_of_generate_bring_their_prompts_and_skeletons(tmp_path: Path) -> None:
    systems = {"ours": write_run(tmp_path / "ours"), "theirs": write_videos(tmp_path / "theirs", "00-cat")}
    folder = make_study(config(tmp_path / "study", **systems))
    (item,) = json.loads((folder / "key.json").read_text(encoding="utf-8"))["items"].values()
    assert item["prompt"] == "a cat" and len(item["videos"]) == 2
    skeleton = read_frames(folder / "videos" / f"{item['skeleton']}.mp4")
    assert skeleton.shape == (3, 16, 16, 3) and skeleton.min() > 240
    write_run(tmp_path / "others", prompt="a dog")
    with pytest.raises(ConfigError, match="00-cat has different prompts, 'a cat' and 'a dog'; give a manifest"):
        match_videos(config(tmp_path / "new", ours=tmp_path / "ours", others=tmp_path / "others"))


def test_a_manifest_chooses_videos_and_gives_prompts_and_skeletons(tmp_path: Path) -> None:
    systems = {system: write_videos(tmp_path / system, "a", "b.1", "unlisted") for system in ("ours", "theirs")}
    person = np.full((17, 3), (5, 9, 1), np.float32)
    write_keypoints(tmp_path / "walk.json", ClipKeypoints(32, 24, 30, [[person]] * 4))
    rows = [{"video": "b.1", "prompt": "two"}, {"video": "a.mp4", "prompt": "one", "skeleton": "walk.json"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    settings = config(tmp_path / "study", tmp_path / "m.jsonl", **systems)
    settings.fps = 5
    folder = make_study(settings)
    two, one = json.loads((folder / "key.json").read_text(encoding="utf-8"))["items"].values()
    assert (two["name"], two["prompt"], two["skeleton"]) == ("b.1", "two", None)
    info = probe(folder / "videos" / f"{one['skeleton']}.mp4")
    assert (info.num_frames, info.fps, info.height, info.width) == (4, 5, 24, 32)
    assert {probe(folder / "videos" / f"{name}.mp4").fps for name in one["videos"]} == {5}


def test_videos_of_different_lengths_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    systems = {"ours": write_videos(tmp_path / "ours", "a", "b"), "theirs": write_videos(tmp_path / "theirs", "a")}
    write_videos(tmp_path / "theirs", "b", frames=7)
    make_study(config(tmp_path / "study", **systems))
    reason = "1 of 2 are not equally long, the shorter wait on their last frame: b (ours 0.38 s, theirs 0.88 s)"
    assert reason in capsys.readouterr().out


def test_a_gif_is_taken_where_there_is_no_video_of_its_name(tmp_path: Path) -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    ours, theirs = write_videos(tmp_path / "ours", "a"), tmp_path / "theirs"
    theirs.mkdir()
    for folder in (ours, theirs):
        write_gif(folder / "a.gif", frames, 8)
    (item,) = match_videos(config(tmp_path / "study", ours=ours, theirs=theirs))
    assert [clip.path.suffix for clip in item.videos.values()] == [".mp4", ".gif"]


def test_missing_videos_are_named_with_their_folder(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in ((one, "abc"), (two, "cd")):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.mp4").touch()
    reason = rf"expected the same videos in each folder, but x \({one}\) lacks d; y \({two}\) lacks a, b"
    with pytest.raises(ConfigError, match=reason):
        match_videos(config(tmp_path / "study", x=one, y=two))
    (tmp_path / "m.jsonl").write_text("".join(f'{{"video": "{i}"}}\n' for i in range(7)))
    with pytest.raises(ConfigError, match="lacks 0, 1, 2, 3, 4 and 2 more"):
        match_videos(config(tmp_path / "study", tmp_path / "m.jsonl", x=one, y=two))


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    full, empty, double = (tmp_path / name for name in ("full", "empty", "double"))
    for folder, names in ((full, ["a.mp4"]), (empty, ["a.txt", ".a.mp4"]), (double, ["a.mp4", "a.webm"])):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    cases = (
        ({"x": full, "y": empty}, r"systems\.y: .*empty: no video in it"),
        ({"x": full, "y": double}, r"systems\.y: .*a\.mp4 and a\.webm have one name"),
        ({"x": full, "y": tmp_path / "none"}, r"systems\.y: .*none: no such folder"),
    )
    for systems, reason in cases:
        with pytest.raises(ConfigError, match=reason):
            match_videos(config(tmp_path / "study", **systems))
    for systems in ({"x": full}, {f"x{i}": full for i in range(10)}):
        with pytest.raises(ValueError, match=f"systems: got {len(systems)}, expected 2 to 9"):
            config(tmp_path / "study", **systems)
    with pytest.raises(VideoError, match=r"a\.mp4"):
        make_study(config(tmp_path / "study", x=full, y=full))
    assert not (tmp_path / "study").exists() and len(list(tmp_path.iterdir())) == 3
    (full / "run.json").write_text('{"videos": [{"prompt": "a cat"}]}')
    with pytest.raises(ConfigError, match=r"run\.json: not the record of a run of generate \('files'\)"):
        match_videos(config(tmp_path / "study", x=full, y=full))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('{"video": "a"}\n{"video"', "line 2: not JSON"),
        ('{"prompt": "a"}', "line 1: 'video'; expected"),
        ('{"video": "a", "prompts": "x"}', r"line 1: got \['prompts'\]; expected"),
        ('{"video": "a", "prompt": 5}', r"line 1: got \[5, None\]; expected"),
        ('["a"]', "line 1: .*; expected"),
        ('{"video": "a"}\n\n{"video": "a.mp4"}', "line 3: a is there already"),
        ('{"video": "a", "skeleton": "s.mp4"}', r"line 1: .*s\.mp4: no such file"),
        ("", "is empty"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, lines: str, reason: str) -> None:
    (tmp_path / "m.jsonl").write_text(lines)
    with pytest.raises(ConfigError, match=rf"manifest: .*m\.jsonl: {reason}"):
        match_videos(config(tmp_path / "study", tmp_path / "m.jsonl", x=tmp_path, y=tmp_path))


def test_a_manifest_in_any_encoding_of_json_lines_is_read(tmp_path: Path) -> None:
    """With a byte-order mark, line separators within a prompt, and half an emoji, which the page shows as it can."""
    systems = {system: write_videos(tmp_path / system, "a", "b") for system in ("ours", "theirs")}
    lines = ['{"video": "a", "prompt": "one\u2028two\x85three"}', '{"video": "b", "prompt": "half \\ud83d"}']
    (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    folder = make_study(config(tmp_path / "study", tmp_path / "m.jsonl", **systems))
    key = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    assert [item["prompt"] for item in key["items"].values()] == ["one\u2028two\x85three", "half \ud83d"]
    assert '"half \\ud83d"' in (folder / "index.html").read_text(encoding="utf-8")


def test_a_full_disk_is_reported_with_the_folder_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(file: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    systems = {system: write_videos(tmp_path / system, "a") for system in ("ours", "theirs")}
    monkeypatch.setattr(files, "sync_file", sync)
    with pytest.raises(
        ValueError, match=r"/\.study\.\d+\.partial/videos/\w+\.mp4: cannot be written \(No space left on device\)"
    ):
        make_study(config(tmp_path / "study", **systems))
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    answers = write_answers(tmp_path / "1.csv", rows_of(1, *["ours"] * 4))
    with pytest.raises(ValueError, match=r"out\.json: cannot be written \(No space left on device\)"):
        score_study(tmp_path / "key.json", [answers], tmp_path / "out.json")
    with pytest.raises(ValueError, match=r"none/out\.json: cannot be written \(No such file or directory\)"):
        score_study(tmp_path / "key.json", [answers], tmp_path / "none" / "out.json")
    assert {file.name for file in tmp_path.iterdir()} == {"ours", "theirs", "key.json", "1.csv"}


def test_questions_are_the_papers_or_ones_own() -> None:
    assert read_questions(["quality", "hands: Whose are best?"]) == {
        "quality": QUESTIONS["quality"], "hands": "Whose are best?",
    }  # fmt: skip
    for wrong in (["beauty"], ["hands:"], ["two words: Which?"], ["a,b: Which?"], ["text", "text: Which?"], []):
        with pytest.raises(ConfigError, match="questions: "):
            read_questions(wrong)


def test_a_question_without_its_prompt_or_skeleton_is_refused(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "x", "a")
    for question, part in (("text", "prompt"), ("pose", "skeleton")):
        settings = config(tmp_path / "study", x=folder, y=folder)
        settings.questions = [question]
        with pytest.raises(ConfigError, match=f"questions: {question} needs a {part}, and a has none"):
            make_study(settings)


def test_systems_are_named_on_the_command_line() -> None:
    overrides = ["systems.tune-a-video=b", "systems.ours=a", "questions=[text, pose]"]
    settings = build_config(StudyConfig, {}, overrides)
    assert settings.systems == {"tune-a-video": "b", "ours": "a"} and settings.questions == ["text", "pose"]


# ---- the score -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "count", "low", "high"),
    [  # of scipy.stats.binomtest(chosen, count).proportion_ci(method="wilson")
        (0, 1, 0.0, 0.7934506856227626),
        (0, 10, 0.0, 0.27753279986288926),
        (10, 10, 0.7224672001371109, 1.0),
        (7, 10, 0.39677814746114526, 0.892208732593699),
        (1, 3, 0.06149194472039626, 0.7923403991979523),
        (50, 100, 0.4038315303659956, 0.5961684696340044),
        (81, 263, 0.2552885198782742, 0.36620957698280004),
        (263, 1000, 0.23665685979107837, 0.2911570237310747),
    ],
)
def test_the_interval_is_wilsons(chosen: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(chosen, count) == pytest.approx((low, high), abs=1e-12)
    assert wilson_interval(count - chosen, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    if chosen == 0:  # the formula's own value there
        assert wilson_interval(0, count)[1] == pytest.approx(1.959963984540054**2 / (count + 1.959963984540054**2))


@pytest.mark.parametrize(("chosen", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_an_interval_of_nothing_is_refused(chosen: int, count: int) -> None:
    with pytest.raises(ValueError, match="expected at least one answer"):
        wilson_interval(chosen, count)


def rows_of(rater: int, *systems: str) -> list[list[str]]:
    """A rater's rows: which system was chosen in p's two questions, then in q's."""
    steps = [(item, question) for item in KEY["items"] for question in KEY["questions"]]
    return [
        ["s1", str(rater), str(step), item, question, str(step % 3 + 1), "2.5", f"{item}{system}"]
        for step, ((item, question), system) in enumerate(zip(steps, systems, strict=True), 1)
    ]


def write_answers(path: Path, rows: list[list[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def test_shares_are_of_all_answers_and_of_those_for_either_of_a_pair(tmp_path: Path) -> None:
    one = write_answers(tmp_path / "1.csv", rows_of(1, "ours", "ours", "theirs", "ours"))
    two = write_answers(tmp_path / "2.csv", rows_of(2, "ours", "others", "ours", "ours"))
    result = score(KEY, read_answers(KEY, [one, two]))
    quality, text = result["questions"]["quality"], result["questions"]["text"]
    assert [share["chosen"] for share in quality["systems"].values()] == [3, 1, 0]
    assert quality["systems"]["ours"]["percent"] == 75 and quality["systems"]["ours"]["of"] == 4
    assert quality["systems"]["ours"]["ci95"] == pytest.approx([100 * end for end in wilson_interval(3, 4)])
    pairs = {(pair["system"], pair["over"]): (pair["chosen"], pair["of"]) for pair in text["pairs"]}
    assert pairs == {("ours", "theirs"): (3, 3), ("ours", "others"): (3, 4), ("theirs", "others"): (0, 1)}
    assert [share["chosen"] for share in result["positions"]] == [2, 4, 2]
    assert result["raters"] == {r: {"answers": 4, "median_seconds": 2.5} for r in ("1", "2")}
    table = format_score(result)
    assert "8 answers of 2 raters, 2.5 seconds each (median)." in table
    assert "| quality | ours | 3 of 4 | 75.0 | 30.1 to 95.4 |" in table
    assert "| text | ours over others | 3 of 4 | 75.0 | 30.1 to 95.4 |" in table
    assert "| any | position 2 | 4 of 8 | 50.0 |" in table


def test_a_pair_that_nobody_chose_has_no_share(tmp_path: Path) -> None:
    file = write_answers(tmp_path / "1.csv", rows_of(1, *["ours"] * 4))
    table = format_score(score(KEY, read_answers(KEY, [file])))
    assert "| quality | theirs over others | 0 of 0 | - | - |" in table and "1 rater," in table


def test_the_numbers_are_written_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    file = write_answers(tmp_path / "1.csv", rows_of(1, *["ours"] * 4))
    score_study(tmp_path / "key.json", [file], tmp_path / "out.json")
    assert (
        json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["questions"]["text"]["systems"]["ours"][
            "percent"
        ]
        == 100
    )
    for taken in ("out.json", "key.json", "1.csv"):
        with pytest.raises(ValueError, match=f"{taken}: is there already"):
            score_study(tmp_path / "key.json", [file], tmp_path / taken)


@pytest.mark.parametrize("name", ["key.json", "1.csv"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    write_answers(tmp_path / "1.csv", rows_of(1, *["ours"] * 4))
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert "4 answers of 1 rater," in score_study(tmp_path / "key.json", [tmp_path / "1.csv"])


def test_names_are_read_and_written_in_any_locale(tmp_path: Path) -> None:
    systems = {"ours": "a", "theirs": "b", "others": "c"}
    key = KEY | {"questions": {"é": "Ü?", "text": "Which?"}, "systems": systems}
    (tmp_path / "key.json").write_text(json.dumps(key, ensure_ascii=False), encoding="utf-8")
    rows = [[cell.replace("quality", "é") for cell in row] for row in rows_of(1, *["ours"] * 4)]
    write_answers(tmp_path / "1.csv", rows)
    command = [sys.executable, "-m", "followyourpose", "study", "score", "key.json", "1.csv", "-o", "out.json"]
    places = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run(command, cwd=tmp_path, env=os.environ | places | locale, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert rb"| \xe9 | ours | 2 of 2 |" in result.stdout
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["questions"]["é"]["text"] == "Ü?"


def test_additions_of_a_spreadsheet_do_no_harm(tmp_path: Path) -> None:
    file = write_answers(tmp_path / "1.csv", rows_of(1, *["ours"] * 4))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().rstrip() + b"\r\n\r\n")
    assert len(read_answers(KEY, [file])) == 4


def changed(row: int, column: str, value: str) -> list[list[str]]:
    rows = rows_of(1, *["ours"] * 4)
    rows[row][COLUMNS.index(column)] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (changed(0, "study", "s2"), "line 2: got an answer to study 's2', expected 's1'"),
        (changed(1, "item", "r"), "line 3: item: got 'r', which the study does not have"),
        (changed(2, "question", "beauty"), "line 4: question: got 'beauty', expected one of quality, text"),
        (changed(3, "choice", "pours"), "line 5: choice: got 'pours', expected one of qothers, qours, qtheirs"),
        (changed(3, "choice", "qou"), "line 5: choice: got 'qou'"),
        (changed(1, "position", "4"), "line 3: position: got '4', expected a number from 1 to 3"),
        (changed(1, "seconds", "long"), "line 3: rater and seconds: got '1' and 'long', expected two numbers"),
        (changed(1, "rater", "1e9"), "line 3: rater and seconds"),
        (changed(1, "seconds", "9" * 400), "line 3: rater and seconds"),
        (changed(1, "position", "1" * 5000), "line 3: position"),
        (rows_of(1, *["ours"] * 4)[:3], "rater 1: got 3 of 4 answers, none to text of q; is it cut off?"),
        ([*rows_of(1, *["ours"] * 4)[:3], ["s1", "1", "4"]], "line 5: got 3 columns, .*; is it cut off?"),
        (rows_of(1, *["ours"] * 4) + rows_of(1, *["theirs"] * 4)[1:2], "line 6: .* before, in .*: line 3; expected"),
        ([], "no answer in it"),
    ],
)
def test_an_answer_that_does_not_count_is_refused_with_its_line(
    tmp_path: Path, rows: list[list[str]], reason: str
) -> None:
    file = write_answers(tmp_path / "1.csv", rows)
    with pytest.raises(ValueError, match=rf"1\.csv: {reason}"):
        read_answers(KEY, [file])


def test_a_file_is_counted_once(tmp_path: Path) -> None:
    one, copy = (write_answers(tmp_path / name, rows_of(1, *["ours"] * 4)) for name in ("1.csv", "1 (1).csv"))
    with pytest.raises(
        ValueError, match=r"1 \(1\)\.csv: line 2: rater 1 answered quality of p before, in .*1\.csv: line"
    ):
        read_answers(KEY, [one, copy])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1: got nothing, expected study,rater"),
        (b"study;rater\n", "line 1: got study;rater, expected study,rater"),
        (b"\xff\xfe\x00", r"cannot be read \(not UTF-8 text"),
        (COLUMNS_LINE + b"\n" + b"x" * 200_000, "not a table of answers"),
    ],
)
def test_a_file_that_is_no_table_of_answers_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "1.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"1\.csv: {reason}"):
        read_answers(KEY, [tmp_path / "1.csv"])


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        json.dumps(KEY | {"questions": ["quality"]}),
        '{"study": "s1"}',
        json.dumps(KEY | {"systems": {"ours": "a"}}),
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(ValueError, match=r"key\.json: not a key\.json as `study make` writes it: study, systems"):
        score_study(tmp_path / "key.json", [])
    (tmp_path / "key.json").write_text(content[:-1])
    with pytest.raises(ValueError, match=r"key\.json: not a JSON file"):
        score_study(tmp_path / "key.json", [])
