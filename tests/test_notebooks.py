"""Every notebook runs from top to bottom in its short mode; its last cell asserts a number.

With SCIML_FULL set (`make notebooks`) it runs in full.
"""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_numbers_hold(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = bool(os.environ.get("SCIML_FULL"))
    monkeypatch.setenv("SCIML_SMOKE", "" if full else "1")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", os.environ.get("MPLBACKEND", "module://matplotlib_inline.backend_inline"))
    notebook = nbformat.read(path, as_version=4)
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert "assert" in last.source
    where = {"metadata": {"path": FOLDER}}
    client = NotebookClient(notebook, timeout=1800 if full else 300, kernel_name="python3", resources=where)
    client.execute()  # raises CellExecutionError, with the traceback, when a cell fails


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
