"""Photos, words and codes of any kind: a right answer, or a `ValueError` of one line."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from transformers_pat import PatForSemanticSegmentation, PatProcessor, PatSegmentationPipeline
from transformers_pat.image_io_pat import load_photo

from .support import FUZZ, one_line

DTYPES = [np.bool_, np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64, np.float16, np.float32, np.float64]
MODES = ["RGB", "L", "1", "P", "RGBA", "CMYK", "I;16"]
WORDS = st.lists(st.text(max_size=30), max_size=6)


@pytest.fixture(scope="module")
def pipe(checkpoint):
    model = PatForSemanticSegmentation.from_pretrained(checkpoint).eval()
    return PatSegmentationPipeline(model=model, processor=PatProcessor.from_pretrained(checkpoint))


def pixels(dtypes=DTYPES, **shape):
    return st.sampled_from(dtypes).flatmap(lambda dtype: arrays(dtype, array_shapes(**shape)))


@FUZZ
@given(pixels(min_dims=0, max_dims=5, min_side=0, max_side=9), st.booleans())
def test_arrays_as_photos(array, as_tensor):
    source = torch.from_numpy(array) if as_tensor else array
    with one_line():
        photo = load_photo(source)
        assert photo.width and photo.height


@FUZZ
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["RGB", "L", "1", "P", "RGBA", "CMYK", "I;16"]),
    WORDS,
)
def test_photos_and_words(pipe, size, mode, words):
    with one_line():
        found = pipe(Image.new(mode, size), candidate_labels=words)
        masks = np.stack([np.asarray(one["mask"]) for one in found])
        assert masks.shape[1:] == size[::-1] and (masks.astype(int).sum(0) == 255).all()
        assert {one["label"] for one in found} <= {word.strip() for word in words}


@FUZZ
@given(st.one_of(st.none(), st.text(max_size=9), st.floats(), WORDS, st.integers(), st.binary(max_size=3)))
def test_backgrounds(pipe, background):
    with one_line():
        found = pipe(Image.new("RGB", (32, 32)), candidate_labels=["sky", "tree"], background=background)
        assert {one["label"] for one in found} <= {"sky", "tree", "background"}


@FUZZ
@given(st.one_of(st.floats(), st.integers(-9, 99), st.text(max_size=3), st.none()), st.integers(-9, 99) | st.floats())
def test_windows_and_thresholds(pipe, threshold, window):
    with one_line():
        photo = Image.new("RGB", (40, 90))
        pipe(photo, candidate_labels=["sky", "tree"], threshold=threshold, window_size=window)


@FUZZ
@given(st.lists(pixels(min_dims=1, max_dims=4, min_side=0, max_side=6), max_size=4))
def test_codes(pipe, codes):
    text_embeds = pipe.model.get_text_embeds(["sky", "tree"], pipe.processor)
    for use in (pipe.model.pat.decode, lambda given: pipe.model.segment_codes(given, text_embeds)):
        with one_line(), torch.no_grad():
            assert use(codes).isfinite().all()


@FUZZ
@given(pixels(min_dims=2, max_dims=4, min_side=0, max_side=20))
def test_image_processor(pipe, array):
    with one_line():
        values = pipe.image_processor(array, return_tensors="pt")["pixel_values"]
        assert values.isfinite().all()


@FUZZ
@given(
    st.lists(st.text(max_size=300), min_size=1, max_size=3),
    st.sampled_from(["none", "simple", "vild"]) | st.text(max_size=12) | st.lists(st.text(max_size=9), max_size=3),
)
def test_templates(pipe, words, templates):
    with one_line():
        embeds = pipe.model.get_text_embeds(words, pipe.processor, templates=templates)
        assert embeds.norm(dim=-1).allclose(torch.ones(len(words)), atol=1e-4)
