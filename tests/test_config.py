"""Configs: strict about keys and types, one line that names the place."""

from dataclasses import asdict
from pathlib import Path

import pytest

from followyourpose.config import (
    ConfigError,
    GenerateConfig,
    TrainConfig,
    build_config,
    load_config,
    locate,
    save_config,
)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("key", "nearest"), [("promt", "prompt"), ("num_frame", "num_frames"), ("crop.lef", "crop.left")]
)
def test_an_unknown_key_names_its_nearest_neighbour(key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key {key}; the nearest is {nearest}"):
        build_config(GenerateConfig, {"prompt": "x"}, [f"{key}=1"])


def test_an_unknown_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("prompt: x\nguidance_scal: 3\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: unknown key guidance_scal; the nearest is guidance_scale"):
        load_config(GenerateConfig, tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed=abc", "seed=abc: seed: got 'abc', expected a whole number"),
        ("num_frames=1.5", "num_frames: got '1.5', expected a whole number"),
        ("num_frames=true", "num_frames: got 'true', expected a whole number"),
        ("crop.left=null", "crop.left: got null, expected a whole number"),
        ("crop=5", "crop: got '5', expected a mapping with left, right, top, bottom"),
        ("seed", "got 'seed', expected key=value"),
        ("=3", "got '=3', expected key=value"),
        ("lora=[1", "lora=[1: not a YAML file (while parsing"),
        ("output=${nothing}", "Interpolation key 'nothing' not found"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(override: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config(GenerateConfig, {"prompt": "x"}, [override])
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_key_without_default_must_be_set() -> None:
    with pytest.raises(ConfigError, match="no value for prompt"):
        build_config(GenerateConfig, {})
    with pytest.raises(ConfigError, match=r"no value for data\.path, init, output, steps, trainable"):
        build_config(TrainConfig, {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [("- a\n- b\n", "got a list at the top"), ("a: [", "not a YAML file"), ("", "got null at the top")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ConfigError, match=reason) as error:
        load_config(GenerateConfig, tmp_path / "run.yaml")
    assert "run.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(GenerateConfig, path)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("prompt: x\nseed: 3\nnum_frames: 4\ncrop: {left: 2}\n")
    config = load_config(GenerateConfig, tmp_path / "run.yaml", ["seed=5", "crop.top=1", "guidance_scale=1e1"])
    assert (config.seed, config.num_frames, config.stride, config.guidance_scale) == (5, 4, 1, 10.0)
    assert (config.crop.left, config.crop.top) == (2, 1)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("an astronaut on the moon", "an astronaut on the moon"),
        ("batman, brown background", "batman, brown background"),
        ("[a cat, a dog]", ["a cat", "a dog"]),
    ],
)
def test_prompts_on_the_command_line_need_no_quotes_of_their_own(text: str, prompt: str | list[str]) -> None:
    assert build_config(GenerateConfig, {}, [f"prompt={text}"]).prompt == prompt


TEXTS = (
    "001",
    "010",
    "no",
    "true",
    "1e3",
    "1.10",
    "12:30",
    "a #1",
    "a: b",
    "'a'",
    '"a',
    "*a",
    "&a",
    "!!int 3",
    "@",
    "${x}",
    "-",
)


@pytest.mark.parametrize("text", TEXTS)
def test_text_settings_on_the_command_line_are_taken_as_they_are_given(text: str) -> None:
    keys = ("prompt", "negative_prompt", "style", *(() if "$" in text else ("output", "skeleton", "model", "lora")))
    for key in keys:
        assert getattr(build_config(GenerateConfig, {"prompt": "x"}, [f"{key}={text}"]), key) == text


@pytest.mark.parametrize(
    "text", ["001", "010", "no", "1e3", "1.10", "12:30", "'no'", "${x}", "2026-11-30", "0x1F", "on"]
)
def test_text_settings_in_a_file_keep_their_source_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"prompt: {text}\nnegative_prompt: {text}\nstyle: {text}\n")
    config = load_config(GenerateConfig, tmp_path / "a.yaml")
    assert {config.prompt, config.negative_prompt, config.style} == {text.strip("'")}
    (tmp_path / "b.yaml").write_text(f"prompt: \n- {text}\n- '{text.strip(chr(39))}'\n")
    assert load_config(GenerateConfig, tmp_path / "b.yaml").prompt == [text.strip("'")] * 2


def test_numbers_and_switches_are_read_by_their_fields_types(tmp_path: Path) -> None:
    lines = "seed: 010\nguidance_scale: 1e1\nvae_tiling: yes\nheight: ~\nlora: [{path: 007, weight: 5e-1}]\nfps: '12'\n"
    (tmp_path / "a.yaml").write_text("prompt: x\n" + lines)
    config = load_config(GenerateConfig, tmp_path / "a.yaml")
    assert (config.seed, config.guidance_scale, config.vae_tiling, config.height, config.fps) == (
        10,
        10.0,
        True,
        None,
        12.0,
    )
    assert config.lora == [{"path": "007", "weight": 0.5}]


def test_interpolation_is_for_paths_of_files_and_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "there")
    config = build_config(GenerateConfig, {"prompt": "x"}, ["output=${oc.env:SCRATCH}/a", "prompt=${a}"])
    assert (config.output, config.prompt) == ("there/a", "${a}")
    literal = {"prompt": ["${a}"], "output": "${oc.env:SCRATCH}", "skeleton": r"\\${a}", "lora": {"path": "${b}"}}
    config = build_config(GenerateConfig, literal)  # a program's values, such as a run's record, are what they are
    assert (config.prompt, config.output) == (["${a}"], "${oc.env:SCRATCH}")
    assert (config.skeleton, config.lora["path"]) == (r"\\${a}", "${b}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: 1\nseed: 2\n", "line 3: seed is there twice"),
        ("pose: {people: 1}\nfps: 3\npose: {smooth: 3}\n", "line 4: pose is there twice"),
        ("retarget: {limbs: {thigh: 1, thigh: 2}}\n", "line 2: thigh is there twice"),
        ("scheduler: [ddim]\n", "scheduler: got a list, expected one of ddim"),
        ("retarget: {limbs: [2, 2]}\n", "retarget.limbs: got a list, expected a mapping"),
        ("retarget: [2]\n", "retarget: got a list, expected a mapping with reference, scale, limbs"),
        ("negative_prompt: {a: b}\n", "negative_prompt: got a mapping, expected text"),
        ("negative_prompt: null\n", "negative_prompt: got null, expected text"),
        ("lora: {path: a, weight: much}\n", "lora.weight: got 'much', expected a number"),
        ("lora: [{file: a}]\n", "unknown key lora[0].file; the nearest is lora[0].weight"),
        ("seed: [0, 1]\n", "seed: got a list, expected a whole number; num_videos_per_prompt draws several seeds"),
        ("? [a]\n: b\n", "line 2: a key is no text"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"c{i}: &c{i} [{'*b, ' * 99}]\n" for i in range(99)), "at most"),
        ("seed: &a [*a]\n", "expected at most 30 levels"),
        ("seed: " + "[" * 5000, "nested too deeply"),
        ("seed: " + "{a: " * 50 + "}" * 50, "expected at most 30 levels"),
        ("seed: !!python/object:os.system x\n", "seed: got 'x', expected a whole number"),
        ("x: '" + "x" * 110_000 + "'\n", "larger than 100,000 bytes"),
        ("\x00", "not a YAML file"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line_within_a_second(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "run.yaml").write_text("prompt: x\n" + text)
    with pytest.raises(ConfigError) as error:
        load_config(GenerateConfig, tmp_path / "run.yaml")
    assert reason in str(error.value) and "run.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_file_without_end_and_one_with_a_byte_order_mark(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/dev/zero: cannot be read"):
        load_config(GenerateConfig, "/dev/zero")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfprompt: x\r\nseed: 3\r\n")
    assert load_config(GenerateConfig, tmp_path / "bom.yaml").seed == 3


def test_aliases_and_merge_keys_of_yaml_serve(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("prompt: &p [a]\ncrop: &c {left: 1}\npose: {<<: {people: 2}, smooth: 3}\n")
    config = load_config(GenerateConfig, tmp_path / "a.yaml")
    assert (config.pose.people, config.pose.smooth, config.prompt) == (2, 3, ["a"])


@pytest.mark.parametrize("name", ["saved.yaml", "saved.json"])
def test_a_saved_config_loads_as_the_same(tmp_path: Path, name: str) -> None:
    odd = {"skeleton": "${a}", "output": r"\\${b} #1", "negative_prompt": "no: ${c}", "style": "010", "lora": ["1e3"]}
    config = build_config(GenerateConfig, {"prompt": ["a", "${b}"], "seed": 7} | odd, ["crop.left=3"])
    save_config(config, tmp_path / name)
    assert asdict(load_config(GenerateConfig, tmp_path / name)) == asdict(config)


def test_paths_lead_from_the_working_directory_then_from_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = Path("configs/puppet/generate.yaml")
    assert locate(shipped) == REPOSITORY / shipped
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    assert locate(shipped) == shipped
    assert locate("nowhere.yaml") == Path("nowhere.yaml")
