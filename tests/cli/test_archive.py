"""`transformers-pat tokenize`, `query` and `verify`."""

import csv
import json
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from transformers_pat.archive import TokenArchive
from transformers_pat.cli.app import app

from ..support.tiny import photo


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """Runs a command in a folder with photos/0.png to 5.png."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("photos").mkdir()
    for number in range(6):
        photo(seed=number).save(f"photos/{number}.png")

    def run_command(*arguments, model=checkpoint, stdin=None):
        given = [] if arguments[0] == "verify" else ["--model", str(model)]
        return CliRunner().invoke(app, [*map(str, arguments), *given], input=stdin)

    return run_command


def test_tokenize_query_verify(run):
    result = run("tokenize", "photos", "--output", "archive", "--photos-per-shard", 4)
    assert result.exit_code == 0 and "archive holds 6 photos" in result.output
    result = run("query", "archive", "road", "tree;bush", "--min-share", 0, "--top", 5, "--output", "found")
    assert result.exit_code == 0, result.output
    rows = json.loads(Path("found/results.json").read_text())
    assert len(rows) == 5 and [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert all(set(row["shares"]) == {"road", "tree;bush"} for row in rows) and rows[0]["source"] in result.output
    with Image.open("found/sheet.jpg") as sheet:
        assert sheet.width > 4 * 300
    result = run("verify", "archive")
    assert result.exit_code == 0 and "2 shards, 0 problems" in result.output


def test_pictures_without_the_photos(run):
    run("tokenize", "photos", "--output", "archive")
    run("query", "archive", "road", "--min-share", 0, "--output", "with")
    for path in Path("photos").iterdir():
        path.unlink()
    result = run("query", "archive", "road", "--min-share", 0, "--output", "without")
    assert result.exit_code == 0
    assert Path("with/results.json").read_bytes() == Path("without/results.json").read_bytes()
    assert Path("with/sheet.jpg").read_bytes() != Path("without/sheet.jpg").read_bytes()


def test_the_same_command_adds_nothing_and_more_photos_are_added(run):
    run("tokenize", "photos/0.png", "photos/1.png", "--output", "archive")
    assert "holds 2 photos" in run("tokenize", "photos/0.png", "photos/1.png", "--output", "archive").output
    assert "holds 6 photos" in run("tokenize", "photos", "--output", "archive").output


def test_a_list_on_standard_input_and_photos_that_can_not_be_read(run):
    Path("photos/3.png").write_bytes(b"no photo")
    result = run("tokenize", "-", "--output", "archive", stdin="photos/0.png\n\nphotos/3.png\nphotos/missing.png\n")
    assert result.exit_code == 1
    assert "archive holds 1 photos" in result.output and "no such image: photos/missing.png" in result.output
    assert "1 photos could not be read" in result.output


def test_photos_of_a_dataset(run):
    rows = {"picture": [str(path) for path in sorted(Path("photos").iterdir())]}
    datasets.Dataset.from_dict(rows).cast_column("picture", datasets.Image()).save_to_disk("rows")
    result = run("tokenize", "--dataset", "rows", "--image-column", "picture", "--output", "archive")
    assert result.exit_code == 0 and "archive holds 6 photos" in result.output
    run("tokenize", "photos", "--output", "files")
    by_row, by_file = list(TokenArchive("archive")), list(TokenArchive("files"))
    assert [one.source for one in by_row] == [f"rows:train:{row}" for row in range(6)]
    for one, other in zip(by_row, by_file, strict=True):
        assert one.sha256 == other.sha256 and all(map(np.array_equal, one.codes, other.codes))


def test_results_as_csv(run):
    run("tokenize", "photos", "--output", "archive")
    run("query", "archive", "road", "car", "--min-share", 0, "--output", "found")
    facts = json.loads(Path("found/results.json").read_text())
    with Path("found/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [fact["source"] for fact in facts]
    assert float(rows[0]["car"]) == facts[0]["shares"]["car"]


def test_segment_an_archive(run):
    run("tokenize", "photos", "--output", "archive")
    result = run("segment", "archive", "--labels", "road, car", "--background", "learned", "--output", "codes")
    assert result.exit_code == 0 and "6 of 6 photos done" in result.output
    facts = json.loads(Path("codes/3.json").read_text())
    assert (facts["width"], facts["height"]) == photo(seed=3).size
    assert sum(label["share"] for label in facts["labels"]) == pytest.approx(1, abs=1e-4)
    with Image.open("codes/3_labels.png") as masks:
        assert masks.size == photo(seed=3).size
    # Without the photos: the same masks, on what the codes decode to.
    for path in Path("photos").iterdir():
        path.unlink()
    run("segment", "archive", "--labels", "road, car", "--background", "learned", "--output", "alone")
    assert Path("codes/3_labels.png").read_bytes() == Path("alone/3_labels.png").read_bytes()
    assert Path("codes/3_overlay.png").read_bytes() != Path("alone/3_overlay.png").read_bytes()


def test_reconstruct_an_archive(run):
    run("tokenize", "photos/0.png", "--output", "archive")
    assert "?" not in run("reconstruct", "archive", "--output", "with").output
    Path("photos/0.png").unlink()
    result = run("reconstruct", "archive", "--output", "without")
    assert result.exit_code == 0 and "?" in result.output and Path("without/0_reconstruction.png").is_file()


def test_codes(run):
    run("tokenize", "photos/0.png", "photos/1.png", "--output", "archive")
    result = run("codes", "archive", "photos/2.png", "--labels", "road, car", "--output", "pictures", "--count", 3)
    assert result.exit_code == 0 and "3 of 3 photos done" in result.output
    assert {path.name for path in Path("pictures").iterdir()} == {
        name for level in (1, 2, 3) for name in (f"level_{level}.jpg", f"level_{level}_where.jpg")
    }


def test_duckdb_reads_and_joins(run):
    run("tokenize", "photos", "--output", "archive")
    Path("owners.csv").write_text("name,owner\nphotos/1.png,Ada\nphotos/4.png,Bob\n")
    assert duckdb.sql("SELECT count(*) FROM 'archive/part-*.parquet'").fetchall() == [(6,)]
    join = "SELECT owner, width FROM 'archive/part-*.parquet' JOIN 'owners.csv' ON source = name ORDER BY owner"
    assert duckdb.sql(join).fetchall() == [("Ada", 128), ("Bob", 128)]


def test_damage_is_found(run):
    run("tokenize", "photos", "--output", "archive")
    (shard,) = Path("archive").glob("part-*.parquet")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    result = run("verify", "archive")
    assert result.exit_code == 1 and "is damaged" in result.output and "1 shards, 1 problems" in result.output
    result = run("query", "archive", "road")
    assert result.exit_code == 2 and "is damaged" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tokenize", "nothing", "--output", "archive"), "no images found: nothing"),
        (("query", "photos", "road"), "no archive at photos: it has no archive.json"),
        (("query", "photos", "road", "Road"), "given twice"),
        (("query", "photos", "road", "--min-share", "2"), "between 0 and 1"),
        (("tokenize", "--output", "archive"), "give either photos or --dataset"),
        (("tokenize", "--dataset", "nowhere", "--output", "archive"), "datasets can't load 'nowhere'"),
        (("verify", "nowhere"), "no archive at nowhere"),
    ],
)
def test_mistakes_end_in_one_line(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.output and len(result.output.strip().splitlines()) == 1


def test_another_checkpoint_is_refused(run, tmp_path):
    run("tokenize", "photos", "--output", "archive")
    for command in (("query", "archive", "road"), ("segment", "archive", "--labels", "a, b"), ("codes", "archive")):
        result = run(*command, model="pat-nano")
        assert result.exit_code == 2 and "which are not those of the given checkpoint" in result.output


def test_an_archive_at_a_url(run):
    assert run("tokenize", "photos", "--output", "memory://tokens").exit_code == 0
    assert run("segment", "memory://tokens", "--labels", "road, tree", "--output", "out").exit_code == 0
    assert len(list(Path("out").glob("*_overlay.png"))) == 6
    missing = run("segment", "memory://none", "--labels", "road, tree", "--output", "out")
    assert missing.exit_code == 2 and "no archive at memory://none" in missing.stderr
