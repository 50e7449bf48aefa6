"""What is installed: from a wheel, in a venv of its own, far from the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import pyg_nodequant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: object, cwd: Path | None = None) -> str:
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NODEQUANT_DATA")
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env,
                          text=True, capture_output=True, timeout=300,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, as an index would get it."""
    tree = tmp_path_factory.mktemp("tree")  # building writes into the tree
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("conf", "src"):
        shutil.copytree(ROOT / name, tree / name, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    run(sys.executable, "-m", "build", "--no-isolation", tree)
    [path] = (tree / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bin_dir(
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The scripts of a new venv with the wheel in it.

    It finds the dependencies where this interpreter has them: the wheel is
    what is tested, not the download of torch.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    run(sys.executable, "-m", "pip", "--python", scripts / "python",
        "install", "--quiet", "--no-deps", "--no-index", wheel)
    [site] = run(scripts / "python", "-c", "import sysconfig; "
                 "print(sysconfig.get_path('purelib'))").splitlines()
    # A path file of a path file is not followed, so that an editable install
    # of this very package is not found there.
    others = [path for path in sys.path if path.endswith("-packages")]
    (Path(site) / "dependencies.pth").write_text("\n".join(others))
    return scripts


def test_every_package_is_listed():
    # They are listed by hand because conf/ is mapped into the package.
    found = {
        ".".join(("pyg_nodequant", *path.parent.relative_to(
            ROOT / "src" / "pyg_nodequant").parts))
        for path in (ROOT / "src" / "pyg_nodequant").rglob("*.py")
    }
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(found | {"pyg_nodequant.conf"})


def test_version_is_one():
    assert pyg_nodequant.__version__ == PYPROJECT["project"]["version"]


def test_wheel_has_every_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        inside = path.relative_to(ROOT / "conf").as_posix()
        assert f"pyg_nodequant/conf/{inside}" in names
    for path in (ROOT / "src").rglob("*.py"):
        assert path.relative_to(ROOT / "src").as_posix() in names
    assert "pyg_nodequant/py.typed" in names
    assert not [name for name in names if name.startswith(("conf", "test"))]


def test_wheel_in_an_empty_directory(bin_dir, tmp_path):
    where = run(bin_dir / "python", "-c",
                "import pyg_nodequant; print(pyg_nodequant.__file__)",
                cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(bin_dir.parent)
    config = run(bin_dir / "nodequant", "train", "--cfg", "job",
                 "quant=uniform", cwd=tmp_path)
    assert "recipe: uniform" in config
    usage = run(bin_dir / "nodequant", "recommend", "--help", cwd=tmp_path)
    assert usage.startswith("usage: nodequant recommend")
    assert not list(tmp_path.iterdir())


def test_import_is_light():
    code = ("import sys, pyg_nodequant, pyg_nodequant.app.main; "
            "pyg_nodequant.PackedRecommender; "
            "heavy = {'torch', 'torch_geometric', 'hydra', 'omegaconf', "
            "'polars'} & set(sys.modules); sys.exit(', '.join(heavy) or 0)")
    done = subprocess.run([sys.executable, "-c", code], text=True,
                          capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", pyg_nodequant.__all__)
def test_public_names(name):
    assert getattr(pyg_nodequant, name) is not None
    assert name in dir(pyg_nodequant)


def test_names_that_are_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pyg_nodequant.nothing  # noqa: B018
    assert set(pyg_nodequant._HOMES) | {"__version__"} == set(
        pyg_nodequant.__all__)
