"""Configs: strict about keys and types, one line that names the place, and every shipped file loads."""

from dataclasses import asdict
from pathlib import Path

import pytest

from followyourpose.config import (
    ConfigError,
    EvaluateConfig,
    GenerateConfig,
    TrainConfig,
    build_config,
    load_config,
    locate,
    save_config,
)

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = sorted((REPOSITORY / "configs").glob("*/*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_config_loads(path: Path) -> None:
    schemas = dict.fromkeys(("generate", "fast", "demo"), GenerateConfig) | dict.fromkeys(
        ("evaluate", "benchmark", "long_video"), EvaluateConfig
    )
    load_config(schemas.get(path.stem, TrainConfig), path)


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


@pytest.mark.parametrize("name", ["saved.yaml", "saved.json"])
def test_a_saved_config_loads_as_the_same(tmp_path: Path, name: str) -> None:
    config = build_config(GenerateConfig, {"prompt": ["a", "b"], "seed": 7}, ["crop.left=3"])
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
