"""The notebooks run, and the run that they read is as small and as portable as one that is shipped has to be."""

import json
import os
import shutil
from pathlib import Path

import pytest

from r1lab.analysis.run import load_run
from r1lab.analysis.ship import relative_paths
from r1lab.module.checkpoint import load_checkpoint, load_state, read_checkpoint
from r1lab.run_folder import FINISHED

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SHIPPED = FOLDER / "r1zero_run"

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_there_are_notebooks_and_each_is_introduced():
    assert NOTEBOOKS
    introduction = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if path.name not in introduction] == []


@pytest.mark.slow
@each_notebook
def test_runs(path, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    # A copy, and a home of its own for what the kernel writes.
    folder = shutil.copytree(FOLDER, tmp_path / "notebooks")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    notebook = nbformat.read(folder / path.name, as_version=4)
    options = {"timeout": 120, "kernel_name": "python3", "resources": {"metadata": {"path": str(folder)}}}
    nbclient.NotebookClient(notebook, **options).execute()


@each_notebook
def test_is_stored_executed_and_small(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {"image/png", "text/html"} <= {kind for output in outputs for kind in output.get("data", ())}
    # Neither errors nor warnings.
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []
    assert path.stat().st_size < 400_000
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@each_notebook
def test_long_code_is_in_the_package(path):
    assert [cell["source"] for cell in code_cells(path) if len("".join(cell["source"]).splitlines()) > 10] == []


def test_the_shipped_run():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 10_000_000
    run = load_run(SHIPPED)
    assert run.summary["status"] == FINISHED and run.summary["experiment"] == "r1zero"
    assert run.samples and len(run.metrics) == run.summary["steps"]
    checkpoint = read_checkpoint(run.checkpoints["last"])
    assert "optimizer_states" not in checkpoint
    state = load_state(checkpoint)
    for config in (run.config, state["config"]):
        assert relative_paths(config, SHIPPED) == config
    assert not Path(state["model"]["config"]["_name_or_path"]).is_absolute()
    policy, tokenizer, _ = load_checkpoint(run.checkpoints["last"])
    assert policy.config.vocab_size == len(tokenizer)
