"""A hosted Space: a folder with which the page starts by itself, as its host starts it."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from followyourpose.cli.main import main

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[demo]'")


def test_a_space_has_what_its_host_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "space"
    assert main(["demo", "--space", str(folder), "--checkpoint", "someone/puppets", "seed=3"]) == 0
    header = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (header["sdk"], header["app_file"], header["license"]) == ("gradio", "app.py", "apache-2.0")
    assert header["sdk_version"].count(".") == 2
    wanted = (folder / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("torch") for line in wanted) and not any("gradio" in line for line in wanted)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"] == "someone/puppets" and config["seed"] == 3
    assert not list(folder.rglob("__pycache__"))
    for model, reason in (("released", "expected a folder or a hub id"), (str(folder), "")):
        assert main(["demo", "--space", str(folder if reason == "" else tmp_path / "other"), f"model={model}"]) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_space_starts_as_its_host_starts_it(tmp_path: Path) -> None:
    folder = tmp_path / "space"
    assert main(["demo", "--space", str(folder)]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | home
    space = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stderr=subprocess.PIPE)
    try:
        for _ in range(240):
            assert space.poll() is None, space.stderr.read().decode()
            try:
                with urlopen(f"http://127.0.0.1:{port}/") as page:
                    assert page.status == 200 and "gradio" in page.read().decode()
                    return
            except URLError:
                time.sleep(0.5)
        pytest.fail("the page did not open within two minutes")
    finally:
        space.terminate()
        space.wait(30)
