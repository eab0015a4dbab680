"""The console command: help is the manual, bad input is one line and exit code 2."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from followyourpose.cli.main import main
from followyourpose.config import (
    ConfigError,
    EvaluateConfig,
    EvaluatePoseConfig,
    GenerateConfig,
    PoseConfig,
    StudyConfig,
    TrainConfig,
)

REPOSITORY = Path(__file__).resolve().parents[1]
VERBS = [
    "generate", "train", "cache", "evaluate", "evaluate-pose", "extract-pose", "puppets", "convert-weights", "configs",
    "download", "export", "inspect", "demo", "study", "pose", "comfyui",
]  # fmt: skip
INNER = ["study make", "study score", "pose convert", "pose edit", "comfyui install"]


def output_of(capsys: pytest.CaptureFixture, *arguments: str, code: int = 0) -> tuple[str, str]:
    """stdout and stderr of a call that must end with `code`."""
    try:
        got = main(arguments)
    except SystemExit as end:
        got = end.code
    captured = capsys.readouterr()
    assert got == code, captured.err
    return captured.out, captured.err


def refusal(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line on stderr of a call that is refused."""
    out, err = output_of(capsys, *arguments, code=2)
    assert out == "" and err.startswith("followyourpose: error: ") and err.count("\n") == 1
    return err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture) -> None:
    out, _ = output_of(capsys, "--help")
    assert all(f"\n    {verb}" in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS + INNER)
def test_every_verb_shows_help_with_two_examples(capsys: pytest.CaptureFixture, verb: str) -> None:
    out, _ = output_of(capsys, *verb.split(), "--help")
    examples = out[out.index("examples:") :]
    assert examples.count(verb) >= 2 and "--debug" in out


@pytest.mark.parametrize(
    ("verb", "schema"),
    [
        ("generate", GenerateConfig),
        ("train", TrainConfig),
        ("cache", TrainConfig),
        ("evaluate", EvaluateConfig),
        ("evaluate-pose", EvaluatePoseConfig),
        ("study make", StudyConfig),
    ],
)
def test_help_lists_every_key_with_its_default_and_a_text(
    capsys: pytest.CaptureFixture, verb: str, schema: type
) -> None:
    lines = output_of(capsys, *verb.split(), "--help")[0].splitlines()

    def check(schema: type, prefix: str = "") -> None:
        for field in dataclasses.fields(schema):
            if dataclasses.is_dataclass(field.default_factory):
                check(field.default_factory, f"{prefix}{field.name}.")
                continue
            line = next(line for line in lines if line.startswith(f"  {prefix}{field.name} "))
            if isinstance(field.default, int | float) and not isinstance(field.default, bool):
                assert line.split()[1] == str(field.default)
            assert len(line) > 62 and line[62] != " ", f"{schema.__name__}.{field.name} has no help text"

    check(schema)


def test_every_flag_of_extract_pose_has_a_text(capsys: pytest.CaptureFixture) -> None:
    out = " ".join(output_of(capsys, "extract-pose", "--help")[0].split())
    for field in dataclasses.fields(PoseConfig):
        if field.name != "source":
            assert re.search(rf"--{field.name.replace('_', '-')} X \w.*?\(default: ", out), field.name


def test_a_shipped_config_goes_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("followyourpose.generation.generate.generate", calls.append)
    assert main(["generate", "puppet/fast", "seed=3"]) == 0
    assert calls[0].scheduler == "dpm++" and calls[0].seed == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["puppet/stage1", "--dry-run", "seed=3", "steps=7"],
        ["seed=3", "puppet/stage1", "--dry-run", "steps=7"],
        ["--dry-run", "puppet/stage1", "seed=3", "steps=7", "--debug"],
        ["seed=3", "--dry-run", "steps=7", "puppet/stage1"],
    ],
)
def test_config_settings_and_flags_stand_in_any_order(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    calls = []
    monkeypatch.setattr("followyourpose.training.loop.train", lambda config, dry_run: calls.append((config, dry_run)))
    assert main(["train", *arguments]) == 0
    config, dry_run = calls[0]
    assert dry_run and (config.output, config.seed, config.steps) == ("outputs/puppet/stage1", 3, 7)


def test_a_stage_on_other_data_has_a_cache_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all data would stop a run on one's own with the identity of another's."""
    calls = []
    monkeypatch.setattr("followyourpose.training.loop.train", lambda config, dry_run: calls.append(config))
    for settings in ([], ["data.path=mine"], ["data.path=mine", "data.cache=null"]):
        assert main(["train", "puppet/stage2", "init=checkpoints/puppet", "--dry-run", *settings]) == 0
    assert [config.data.cache for config in calls] == ["data/puppet/clips-latents", "mine-latents", None]


def test_configs_are_listed_shown_and_copied(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    out, _ = output_of(capsys, "configs")
    assert "| puppet/generate " in out and "| sd14/stage1 " in out
    text = (REPOSITORY / "configs/sd14/stage1.yaml").read_text()
    shown, path = output_of(capsys, "configs", "sd14/stage1")
    assert shown == text and path == f"{REPOSITORY / 'configs/sd14/stage1.yaml'}:\n"
    output_of(capsys, "configs", "--to", str(tmp_path))
    assert (tmp_path / "sd14/stage1.yaml").read_text() == text
    assert "is there already" in refusal(capsys, "configs", "sd14/stage1", "--to", str(tmp_path))
    assert "expected one of puppet/" in refusal(capsys, "configs", "stage1")


def test_a_reader_that_has_seen_enough_ends_a_command_quietly() -> None:
    command = f"{sys.executable} -m followyourpose inspect checkpoints/puppet-eval/detector/*.safetensors | head -1"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0 and result.stderr == "" and result.stdout.count("\n") == 1


def test_a_log_has_no_progress_bars_but_a_line_of_a_long_stage() -> None:
    code = (
        "import time\nfrom followyourpose.cli.main import main\nmain(['configs'])\n"
        "from tqdm.auto import tqdm\nassert list(tqdm(range(3), 'short')) == [0, 1, 2]\n"
        "for _ in tqdm(range(3), 'long', delay=0.01, mininterval=0.01): time.sleep(0.02)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TQDM_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "short" not in done.stderr and "long" in done.stderr and "3/3" in done.stderr


def test_help_and_version_need_no_torch() -> None:
    code = (
        "import sys; from followyourpose.cli.main import main\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'diffusers', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def test_version_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert output_of(capsys, "--version")[0].startswith("followyourpose ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: VERB"),
        (["genrate"], "invalid choice: 'genrate'"),
        (["generate", "none.yaml"], "none.yaml: cannot be read"),
        (["generate", "puppet/peple"], "the nearest shipped config is puppet/people"),
        (["generate", "configs/pupet/people.yaml"], "the nearest shipped config is puppet/people"),
        (["generate", "a robot"], 'a prompt is written prompt="a robot"'),
        (["generate", "--prompt", "a robot"], 'settings are written without dashes: prompt="a robot"'),
        (["generate", "--num-frames=4"], 'settings are written without dashes: num_frames="4"'),
        (["generate", "promt=a cat"], "unknown key promt; the nearest is prompt"),
        (["generate", "seed=abc"], "seed: got 'abc', expected a whole number"),
        (["generate", "configs/puppet/generate.yaml", "other.yaml"], "got 'other.yaml', expected key=value"),
        (["generate", "prompt=[]"], "prompt: got an empty list, expected a string or a list of strings"),
        (["generate", "model=no/model"], "model: no/model: no such file or folder"),
        (["generate", "--seed", "3"], "unrecognized arguments: --seed"),
        (["train"], "no CONFIG file was given: no value for data.path, init, output, steps, trainable"),
        (["evaluate", "num_video=3"], "unknown key num_video; the nearest is num_videos"),
        (["extract-pose", "a.mp4"], "required: -o/--output"),
        (["extract-pose", "a.mp4", "-o", "out"], "a.mp4: no such file or folder, expected a video"),
        (
            ["extract-pose", "a.mp4", "-o", "out", "--people", "some"],
            "people: got 'some', expected a whole number or null",
        ),
        (["extract-pose", "a.mp4", "-o", "out", "--smooth", "4"], "pose.smooth: got 4, expected 0, or an odd number"),
        (["puppets"], "required: OUT"),
        (["puppets", "out", "--images", "many"], "--images: invalid int value: 'many'"),
        (["puppets", "out"], "--images 0 --clips 0"),
        (["convert-weights", "only-one"], "required: TARGET"),
        (["convert-weights", "no/source", "target"], "no/source"),
        (["export", "no/run", "out"], "no/run"),
        (["demo", "--checkpoint", "no/model"], "model: no/model: no such file or folder"),
        (["demo", "num_frame=3"], "unknown key num_frame; the nearest is num_frames"),
        (["demo", "--port", "first"], "--port: invalid int value: 'first'"),
        (["study"], "required: VERB (see followyourpose study --help)"),
        (["study", "make"], "no CONFIG file was given: no value for systems"),
        (["study", "make", "systems.a=x", "systems.b=y"], "systems.a: x: no such folder"),
        (["study", "score", "key.json"], "required: CSV"),
        (["study", "score", "key.json", "a.csv"], "key.json: cannot be read"),
        (["pose", "convert", "none.json", "out.json"], "none.json: no such file or folder, expected keypoints"),
        (["pose", "convert", "none.json", "out.csv"], "out.csv: expected a .json file or a folder"),
        (["pose", "convert", "none.json", "out", "--size", "640"], "--size: got '640', expected WIDTHxHEIGHT in"),
        (["pose", "convert", "none.json", "out", "--to", "csv"], "--to: got 'csv', expected one of keypoints, open"),
        (["pose", "edit", "none.json", "out"], "required: MOVE"),
        (["inspect", "no/folder"], "no/folder: no .safetensors file is there"),
        (["inspect", "."], 'or a manifest.jsonl, a line for each image or clip: {"image": "a.jpg", "caption": "..."'),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reason in refusal(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for verb in ("generate", "study make"):
        with pytest.raises(ConfigError):
            main([*verb.split(), "none.yaml", "--debug"])


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("followyourpose.generation.generate.generate", fail)
    with pytest.raises(KeyError):
        main(["generate", "prompt=x"])


@pytest.mark.parametrize(("torch", "code"), [("2.13.0+cpu", 2), ("2.14.1", None)])
def test_a_torchvision_of_another_torch_is_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, torch: str, code: int | None
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("followyourpose.generation.generate.generate", fail)
    versions = {"followyourpose": "0.1.0", "torch": torch, "torchvision": "0.29.1"}
    monkeypatch.setattr("followyourpose.common.device.version", versions.__getitem__)
    monkeypatch.setattr("followyourpose.common.device.requires", lambda _: ["numpy", "torch==2.14.1"])
    if code is None:
        with pytest.raises(RuntimeError, match="nms"):
            main(["generate", "prompt=x"])
    else:
        assert "torchvision 0.29.1 was built for torch 2.14.1, but torch 2.13.0+cpu" in refusal(capsys, "generate")


def test_an_interrupt_exits_130(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("followyourpose.generation.generate.generate", interrupt)
    assert output_of(capsys, "generate", "prompt=x", code=130)[1] == "followyourpose: interrupted\n"


def test_generate_without_a_config_runs_the_shipped_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("followyourpose.generation.generate.generate", calls.append)
    assert main(["generate"]) == main(["generate", "prompt=a cat", "seed=4"]) == 0
    assert calls[0].model == "checkpoints/puppet" and calls[0].skeleton is None and len(calls[0].prompt) == 3
    assert calls[1].prompt == "a cat" and calls[1].seed == 4


def test_the_page_without_gradio_says_what_to_install(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # importing it is an error then
    assert "the page needs Gradio: pip install -e '.[demo]'" in refusal(capsys, "demo")


@pytest.mark.parametrize("script", ["generate", "train", "evaluate"])
def test_scripts_start_from_anywhere_without_an_install(script: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(REPOSITORY / "scripts" / f"{script}.py"), "none.yaml"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "followyourpose: error: none.yaml: cannot be read (No such file or directory)\n"
