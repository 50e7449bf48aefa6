from __future__ import annotations

import pytest


def test_whole_and_bare_sizes_are_the_reported_ones(nodequant, packed_file,
                                                    recommender, tmp_path):
    storage = recommender.storage()
    assert nodequant("export", packed_file, "--bare").code == 0
    bare = tmp_path / "tiny.bare.nq"
    assert bare.stat().st_size == storage["embedding_bytes"]
    outcome = nodequant("export", packed_file, "--output", "copy.nq")
    assert (tmp_path / "copy.nq").read_bytes() == packed_file.read_bytes()
    assert f"({storage['file_bytes']:,} bytes)" in outcome.out


def test_run_directory(nodequant, packed_file, tmp_path):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    packed_file.rename(tmp_path / "runs" / "first" / "model.nq")
    assert nodequant("export", "runs/first").code == 0
    assert nodequant("export", "runs/first/", "--bare").code == 0
    assert (tmp_path / "first.nq").is_file()
    assert (tmp_path / "first.bare.nq").is_file()


@pytest.mark.parametrize("flags, line", [
    (["--output", "tiny.nq"], "needs to differ from the file"),
    (["--output", "."], "needs to be a file"),
    (["--output", "no/a.nq"], "existing folder"),
    ([], "needs to differ from the file"),
])
def test_bad_output(refused, packed_file, flags, line):
    before = packed_file.read_bytes()
    assert line in refused("export", packed_file, *flags)
    assert packed_file.read_bytes() == before


def test_whole_from_bare(refused, recommender, tmp_path):
    recommender.save(tmp_path / "bare.nq", bare=True)
    assert "add --bare" in refused("export", "bare.nq", "--output", "a.nq")
    assert not (tmp_path / "a.nq").exists()
