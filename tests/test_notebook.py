"""The notebook runs from its first cell to its last, on the embedded default."""

import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks are read by nbformat: pip install nbclient ipykernel")
nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient: pip install nbclient ipykernel")
pytest.importorskip("ipykernel", reason="notebooks need a kernel: pip install nbclient ipykernel")

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_quickstart_runs_and_shows_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.copy(REPOSITORY / "scripts" / "quickstart.ipynb", tmp_path)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("<video" in data.get("text/html", "") for data in shown)
    assert any("(1, 8, 128, 128, 3)" in data.get("text/plain", "") for data in shown)
    assert list(tmp_path.glob("outputs/quickstart/*.mp4"))
    printed = "".join(output.get("text", "") for output in outputs)
    assert "in all: 81,161,600 of " in printed, "the plan of stage 1"
