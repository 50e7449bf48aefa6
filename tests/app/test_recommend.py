from __future__ import annotations

import csv
import json

import polars
import pytest

from pyg_nodequant.app import recommend
from pyg_nodequant.app.recommend import recommend_in_batches


def ask(recommender, user, k, **options):
    scores, ids = recommender.recommend(user, k, **options)
    return ids.tolist(), scores.tolist()


def test_table(nodequant, packed_file, recommender):
    outcome = nodequant("recommend", packed_file, "--user", 10, -0, "-k", 3)
    assert outcome.code == 0
    blocks = outcome.out.strip().split("\n\n")
    for user, block in zip((10, 0), blocks):
        first, header, *rows = block.splitlines()
        assert first == f"user {user}"
        assert header.split() == ["rank", "item", "score", "title"]
        ids, scores = ask(recommender, user, 3)
        assert [row.split() for row in rows] == [
            [str(rank), str(item), f"{score:.4f}", "Title", str(item - 100)]
            for rank, (item, score) in enumerate(zip(ids, scores), 1)]


def test_json_has_original_ids(nodequant, packed_file, recommender):
    outcome = nodequant("recommend", packed_file, "--user=-10", "--user",
                        "20", "--json", "-k", 2)
    answer = json.loads(outcome.out)
    assert [user["user_id"] for user in answer["users"]] == [-10, 20]
    for user in answer["users"]:
        ids, scores = ask(recommender, user["user_id"], 2)
        assert user["items"] == [
            {"item_id": item, "score": score, "title": f"Title {item - 100}"}
            for item, score in zip(ids, scores)]


def test_run_directory(nodequant, packed_file, tmp_path):
    (tmp_path / "run").mkdir()
    packed_file.rename(tmp_path / "run" / "model.nq")
    assert nodequant("recommend", tmp_path / "run", "--user", 0).code == 0


def test_text_ids(nodequant, text_file, refused):
    outcome = nodequant("recommend", text_file, "--user", "user 10")
    assert outcome.out.startswith("user user 10\n")
    assert "strings such as 'user -10'" in refused(
        "recommend", text_file, "--user", "10")


def test_seen_items(nodequant, packed_file, recommender):
    seen = set(recommender.catalogue.seen[1][:3] + 100)

    def items(*flags):
        outcome = nodequant("recommend", packed_file, "--user=-10", "-k", 30,
                            "--json", *flags)
        return [item["item_id"]
                for item in json.loads(outcome.out)["users"][0]["items"]]

    assert len(items()) == 27 and not seen & set(items())
    assert len(items("--include-seen")) == 30


def test_candidates(nodequant, packed_file, tmp_path, refused):
    path = tmp_path / "items.txt"
    path.write_text("101\n103\n")
    outcome = nodequant("recommend", packed_file, "--user", 0, "--json",
                        "--include-seen", "--items-file", path)
    items = json.loads(outcome.out)["users"][0]["items"]
    assert sorted(item["item_id"] for item in items) == [101, 103]
    path.write_text("999\n")
    assert "unknown item" in refused("recommend", packed_file, "--user", 0,
                                     "--items-file", path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_batch(nodequant, packed_file, recommender, tmp_path, suffix):
    (tmp_path / "users.csv").write_text("user_id\n10\n-10\n")
    output = tmp_path / f"out.{suffix}"
    outcome = nodequant("recommend", packed_file, "--users-file",
                        tmp_path / "users.csv", "--output", output, "-k", 2)
    assert outcome.code == 0
    expected = [
        (user, rank, item, score, f"Title {item - 100}")
        for user in (10, -10)
        for rank, (item, score) in enumerate(
            zip(*ask(recommender, user, 2)), 1)]
    if suffix == "parquet":
        assert polars.read_parquet(output).rows() == expected
    else:
        with open(output, newline="") as file:
            header, *rows = csv.reader(file)
        assert header == list(recommend.COLUMNS)
        assert rows == [[str(cell) for cell in row] for row in expected]


def test_batches_are_cut(recommender, monkeypatch):
    whole = list(recommend_in_batches(recommender, [0, 10, 20], 3))
    monkeypatch.setattr(recommend, "USERS_AT_ONCE", 2)
    cut = list(recommend_in_batches(recommender, [0, 10, 20], 3))
    assert [len(batch) for batch in cut] == [2, 1]
    assert sum(cut, []) == sum(whole, [])


def test_bare_file(nodequant, recommender, tmp_path, refused):
    path = tmp_path / "bare.nq"
    recommender.save(path, bare=True)
    assert "add --include-seen" in refused("recommend", path, "--user", 0)
    outcome = nodequant("recommend", path, "--user", 1, "--include-seen",
                        "-k", 1)
    ids, _ = ask(recommender, 0, 1, exclude_seen=False)
    assert outcome.out.splitlines()[2].split()[1] == str(ids[0] - 100)
    outcome = nodequant("recommend", path, "--user", 1, "--include-seen",
                        "--json")
    assert json.loads(outcome.out)["users"][0]["user_id"] == 1
    assert "unknown user 20" in refused("recommend", path, "--user", 20,
                                        "--include-seen")


@pytest.mark.parametrize("flags, line", [
    ([], "no user given: add --user ID or --users-file FILE"),
    (["--user", "7"], "unknown user 7"),
    (["--user", "ann"], "unknown user 'ann'"),
    (["--user", "0", "-k", "0"], "[1, 30]"),
    (["--user", "0", "-k", "31"], "[1, 30]"),
    (["--user", "0", "-k", "x"], "needs to be an integer (got 'x')"),
    (["--users-file", "none.txt"], "no such file or directory: 'none.txt'"),
    (["--user", "0", "--output", "a.txt"], "needs to end in .csv or"),
    (["--user", "0", "--output", "no/a.csv"], "existing folder"),
    (["--user", "0", "--output", "a.csv", "--json"], "leave one out"),
])
def test_bad_input(refused, packed_file, flags, line):
    assert line in refused("recommend", packed_file, *flags)


def test_failed_batch_leaves_nothing(refused, packed_file, tmp_path):
    (tmp_path / "users.txt").write_text("0\n7\n")
    refused("recommend", packed_file, "--users-file", "users.txt",
            "--output", "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tiny.nq", "users.txt"]
