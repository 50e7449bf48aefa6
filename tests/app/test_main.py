from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyg_nodequant import __version__
from pyg_nodequant.app import main as app
from pyg_nodequant.app.main import COMMANDS, main


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_usage_lists_every_command(nodequant, argv):
    outcome = nodequant(*argv)
    assert outcome.code == 0
    assert all(f"  {name} " in outcome.out for name in COMMANDS)


def test_version(nodequant):
    assert nodequant("--version").out == f"nodequant {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(nodequant, command):
    outcome = nodequant(command, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"usage: nodequant {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_flag(refused, command):
    assert f"nodequant {command} --help" in refused(command, "x", "--bogus")


def test_unknown_command(refused):
    line = refused("trian")
    assert ", ".join(COMMANDS) in line
    assert line.endswith("did you mean 'train'?")


def test_debug_shows_the_traceback(nodequant):
    outcome = nodequant("inspect", "missing.nq", "--debug")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("nodequant: error: ")


def test_interrupt(monkeypatch, capsys):
    def dispatch(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "dispatch", dispatch)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "\nnodequant: interrupted\n"


def run_python(code: str, *argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, argv)],
                          capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL)


# What a machine that only serves does not have.
WITHOUT = """
import sys
for name in ("torch", "torch_geometric", "hydra", "omegaconf", "polars",
             "tqdm"):
    sys.modules[name] = None
from pyg_nodequant.app.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_serving_without_torch_and_hydra(packed_file, tmp_path):
    asked = run_python(WITHOUT, "recommend", packed_file, "--user", "10",
                       "--output", tmp_path / "out.csv")
    assert (asked.returncode, asked.stderr) == (0, "")
    shown = run_python(WITHOUT, "inspect", packed_file)
    assert (shown.returncode, shown.stderr) == (0, "")
    exported = run_python(WITHOUT, "export", packed_file, "--output",
                          tmp_path / "out.nq")
    assert (exported.returncode, exported.stderr) == (0, "")


def test_what_is_missing_is_named(packed_file, tmp_path):
    trained = run_python(WITHOUT, "train")
    assert trained.returncode == 2
    assert trained.stderr == (
        "nodequant: error: this needs the package 'hydra', which is not "
        "installed (pip install hydra-core)\n")
    asked = run_python(WITHOUT, "recommend", packed_file, "--user", "10",
                       "--output", tmp_path / "out.parquet")
    assert asked.returncode == 2
    assert "'polars'" in asked.stderr and asked.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe to a shell")
def test_broken_pipe_is_quiet(packed_file):
    code = "import sys; from pyg_nodequant.app.main import main; main()"
    script = Path(sys.executable)
    done = subprocess.run(
        f"'{script}' -c '{code}' recommend '{packed_file}' --user "
        f"{'10 ' * 5000} -k 30 --include-seen | head -n 1",
        shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "user 10\n"
    assert done.stderr == ""
