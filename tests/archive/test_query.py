"""Searching an archive by words."""

from pathlib import Path

import numpy as np
import pytest
import torch

from transformers_pat import PatForSemanticSegmentation
from transformers_pat.archive import ArchiveError, Query, Searcher, TokenArchive
from transformers_pat.archive.context import NUM_WORDS
from transformers_pat.archive.tables import CodeTables, cells_of_patches
from transformers_pat.archive.tokenizing import Tokenizer, describe, plan, tokenize
from transformers_pat.loading import load_checkpoint

from ..support.documents import ROOT
from ..support.tiny import photo, tiny_model, tiny_processor

EXAMPLES = ROOT / "examples" / "photos"
WORDS = ["road", "tree;bush", "car"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def archive(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("photos")
    sizes = [(64, 64), (96, 128), (40, 150)]
    for number in range(12):
        photo(*sizes[number % 3], seed=number).save(folder / f"{number:02d}.png")
    archive = TokenArchive.create(folder / "archive", describe(model.pat, "tiny"))
    parts = plan(archive, [str(path) for path in sorted(folder.glob("*.png"))], photos_per_shard=5)
    tokenize(archive, Tokenizer(model.pat, tiny_processor().image_processor), parts, progress=False)
    return archive


@pytest.fixture(scope="module")
def searcher(archive, model):
    return Searcher(archive, model, tiny_processor())


@pytest.mark.parametrize(
    ("stride", "grid", "shape"), [(2.0, (3, 5), (2, 3)), (1.0, (3, 5), (3, 5)), (0.5, (3, 5), (6, 10))]
)
def test_cells_of_patches(stride, grid, shape):
    codes = torch.arange(shape[0] * shape[1]).view(1, *shape)
    cells = cells_of_patches(codes, stride, grid)
    assert cells.shape == (1, 15, 4 if stride == 0.5 else 1)
    places = {2.0: ([1], [1]), 1.0: ([2], [3]), 0.5: ([4, 5], [6, 7])}[stride]  # of the patch in row 2, column 3
    expected = codes[0][places[0]][:, places[1]].flatten()
    assert cells[0, 2 * 5 + 3].tolist() == expected.tolist()


def test_tables_add_up_to_what_they_were_fitted_to(archive, model):
    photos = list(archive)[:1]
    tables = CodeTables.fit(model.pat, archive.info, photos)
    codes = [torch.from_numpy(level.astype(np.int64))[None] for level in photos[0].codes]
    patches = model.get_text_embeds(WORDS, tiny_processor())
    fitted = tables.patch_scores(codes, tables.scores(patches), photos[0].patch_grid)[0]
    size = tuple(16 * side for side in photos[0].patch_grid)
    exact = model.pat.get_patch_embeds(codes, output_size=size)[0].flatten(0, 1) @ patches.T
    # One photo has nearly as many codes as patches: what is left is small beside what differs between patches.
    assert (fitted - exact).square().mean() < 0.5 * (exact - exact.mean(0)).square().mean()


def test_the_exact_score_is_that_of_the_masks(searcher, archive, model):
    found = searcher(Query(["road", "car"], min_share=0.0, top=100))
    assert len(found) == 12 and [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    with torch.no_grad():
        logits = searcher.segment(found[0].photo, searcher.text_embeds(["road", "car"]))[0]
    assert found[0].score == pytest.approx(float(logits.softmax(0).mean((1, 2))[:2].max()), abs=1e-6)
    assert found[0].shares["road"] == pytest.approx(float((logits.argmax(0) == 0).float().mean()))


def test_conditions(searcher):
    everything = {one.photo.source: one.shares for one in searcher(Query(WORDS, min_share=0.0, top=100))}
    for match, test in (("any", any), ("all", all)):
        found = searcher(Query(WORDS, match=match, min_share=0.05, top=100))
        expected = {source for source, shares in everything.items() if test(s >= 0.05 for s in shares.values())}
        assert {one.photo.source for one in found} == expected
    found = searcher(Query(["road"], without=["car"], min_share=0.05, top=100))
    assert all(one.shares["road"] >= 0.05 > one.shares["car"] for one in found)


def test_top_and_repetition(searcher):
    two = searcher(Query(["road"], min_share=0.0, top=2))
    again = searcher(Query(["road"], min_share=0.0, top=2))
    assert len(two) == 2 and [one.photo.source for one in two] == [one.photo.source for one in again]


def test_another_checkpoint(archive, model):
    other = tiny_model()
    other.pat.codebooks[0].embed.neg_()
    with pytest.raises(ArchiveError, match="not those of the given checkpoint"):
        Searcher(archive, other, tiny_processor())


def test_an_empty_archive(tmp_path, model):
    empty = TokenArchive.create(tmp_path / "empty", describe(model.pat, "tiny"))
    with pytest.raises(ValueError, match="the archive is empty"):
        Searcher(empty, model, tiny_processor())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": []}, "at least one|empty"),
        ({"words": ["a", "A"]}, "given twice"),
        ({"words": ["a"], "without": ["a"]}, "given twice"),
        ({"words": ["a"], "min_share": 2}, "between 0 and 1"),
        ({"words": ["a"], "top": 0}, "at least 1"),
    ],
)
def test_queries_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Query(**fields)


@pytest.fixture(scope="module")
def searched_photos(tmp_path_factory):
    """The example photos, searched with pat-nano."""
    model, processor = load_checkpoint(PatForSemanticSegmentation, "pat-nano")
    archive = TokenArchive.create(tmp_path_factory.mktemp("examples") / "archive", describe(model.pat, "pat-nano"))
    sources = [str(path) for path in sorted(EXAMPLES.glob("*.jpg"))]
    tokenize(archive, Tokenizer(model.pat, processor.image_processor), plan(archive, sources), progress=False)
    return Searcher(archive, model, processor)


def test_a_single_word_competes_with_what_else_the_photos_show(searched_photos):
    for word, photo_name in (("cat", "cat.jpg"), ("building", "china.jpg")):
        found = searched_photos(Query([word], min_share=0.0))
        assert Path(found[0].photo.source).name == photo_name
        assert found[0].shares[word] < 0.9 and found[1].score < 0.1 * found[0].score


def test_words_of_the_same_meaning_do_not_compete(searched_photos):
    context, model, processor = searched_photos.context, searched_photos.model, searched_photos.processor
    assert len(context.beside(model.get_text_embeds(["spaceship"], processor))) == NUM_WORDS
    for word in ("cat", "kitten"):
        assert len(context.beside(model.get_text_embeds([word], processor))) < NUM_WORDS, word
