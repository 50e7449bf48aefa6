from __future__ import annotations

import ast
import base64
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def outputs(notebook, kind):
    """The contents of one media type among all outputs of a notebook."""
    return [out["data"][kind] for cell in notebook["cells"]
            for out in cell.get("outputs", ()) if kind in out.get("data", {})]


def printed(notebook, stream="stdout"):
    return "".join("".join(out["text"]) for cell in notebook["cells"]
                   for out in cell.get("outputs", ())
                   if out.get("name") == stream)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_committed_clean(path):
    """With their outputs, but without traces of the machine they ran on."""
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert "site-packages" not in text and "/tmp" not in text
    assert printed(notebook, "stderr") == ""
    counts = []
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            counts.append(cell["execution_count"])
            source = "".join(cell["source"])
            ast.parse(source)
            assert max(map(len, source.splitlines())) <= 79
    assert counts == list(range(1, len(counts) + 1))
    for image in outputs(notebook, "image/png"):
        assert len(base64.b64decode(image)) < 80_000


def test_quickstart(tmp_path, monkeypatch):
    # Threads that wait for each other make small steps slow on a busy machine.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("matplotlib")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert len(notebook.cells) < 10
    committed = json.loads(json.dumps(notebook))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}})
    client.execute()

    assert {path.name for path in tmp_path.iterdir()} == {"model.nq"}
    picture, = outputs(notebook, "image/png")
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    # Other versions of torch give other digits, but no other lines.
    shown = printed(notebook).splitlines()
    assert len(shown) == len(printed(committed).splitlines())
    assert outputs(notebook, "text/plain") == outputs(committed, "text/plain")

    measured = {line.split("Recall")[0].strip(): line.split()[-3:]
                for line in shown if "Recall@20" in line}
    assert measured.keys() == {"float32", "2 bits", "model.nq"}
    assert measured["2 bits"] == measured["model.nq"]
    recall = {name: float(line[0]) for name, line in measured.items()}
    assert recall["2 bits"] > 0.97 * recall["float32"] > 0.3

    from pyg_nodequant.runtime import PackedRecommender
    packed = PackedRecommender.open(tmp_path / "model.nq")
    assert packed.storage()["mean_bit_width"] == 2.0
    assert f"{packed.storage()['embedding_bytes']:,} bytes" in printed(
        notebook)
