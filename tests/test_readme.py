from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pyg_nodequant.app import main as command
from pyg_nodequant.app.compose import compose_config, sweep_jobs
from pyg_nodequant.app.schema import to_experiment
from pyg_nodequant.app.train import parse

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages, page=README):
    """The contents of a page's blocks, with the line they start in."""
    text = page.read_text(encoding="utf-8")
    return [(text[:found.start()].count("\n") + 2, found[2])
            for found in BLOCK.finditer(text) if found[1] in languages]


def commands(page=README):
    """The arguments of all `nodequant ...` in a page's shell blocks."""
    found = []
    for _, block in blocks("bash", "sh", "console", page=page):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.removeprefix("$ ").split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["nodequant"]:
                    found.append(words[1:])
    return found


def test_there_is_something_to_test():
    assert blocks("python")
    assert ["train"] in commands()
    assert {words[0] for words in commands()} <= command.COMMANDS.keys()


def test_the_two_commands():
    """One line each, so that it can be pasted; the CI script looks for
    them too.
    """
    lines = [line for _, block in blocks("bash")
             for line in block.splitlines() if line.startswith("python3")]
    start = ("python3 -m venv .venv && . .venv/bin/activate && "
             "pip install torch==2.13.0 && pip install -e ")
    assert lines == [f"{start}. && nodequant train",
                     f'{start}".[test]" && pytest']


@pytest.mark.parametrize("page", [README, *DOCS], ids=lambda page: page.name)
def test_python(tmp_path, monkeypatch, page):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for line, source in blocks("python", page=page):
        # Blank lines before it make a traceback show the page's line.
        code = compile("\n" * (line - 1) + source, str(page), "exec")
        exec(code, namespace)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_understood(words, tmp_path, monkeypatch, capsys):
    """Options exist and values are allowed; nothing is trained or read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODEQUANT_DATA", raising=False)
    overrides = []
    if words[0] == "train":
        options = parse(words[1:])
        overrides = (sweep_jobs(options.overrides) if options.multirun
                     else [options.overrides])
    else:
        # The file it names is not here: the first thing that is missed, once
        # the arguments are understood.
        assert command.main(words) == 2
        error = capsys.readouterr().err
        assert "--help" not in error
        assert "model.nq" in error or "runs/" in error
        if words[0] == "evaluate":
            overrides = [[word for word in words[1:]
                          if re.match(r"[\w.]+=", word)]]
    for job in overrides:
        to_experiment(compose_config(job, None, "config"))
    assert not list(tmp_path.iterdir())
