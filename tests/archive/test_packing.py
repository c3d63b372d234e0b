"""Packing of codes: lossless at every width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transformers_pat.archive.packing import bit_width, pack, packed_size, unpack


@settings(max_examples=300, deadline=None)
@given(bits=st.integers(1, 16), photos=st.integers(0, 4), count=st.integers(0, 1500), data=st.data())
def test_every_width_is_lossless(bits, photos, count, data):
    codes = data.draw(arrays(np.int64, (photos, count), elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8 and packed.shape == (photos, packed_size(count, bits))
    unpacked = unpack(packed, bits, count)
    assert unpacked.dtype == np.uint16
    np.testing.assert_array_equal(unpacked, codes)


def test_the_bytes_are_as_documented():
    assert pack(np.array([[1, 2, 3]]), 10).tolist() == [[1, 8, 48, 0]]


@pytest.mark.parametrize(("size", "bits"), [(1, 1), (2, 1), (3, 2), (512, 9), (513, 10), (1024, 10), (65536, 16)])
def test_bit_width(size, bits):
    assert bit_width(size) == bits


@pytest.mark.parametrize("codes", [[[4]], [[-1]]])
def test_codes_that_do_not_fit(codes):
    with pytest.raises(ValueError, match="don't fit in 2 bits"):
        pack(np.array(codes), 2)


def test_a_wrong_number_of_bytes():
    with pytest.raises(ValueError, match="take 4 bytes, got 3"):
        unpack(np.zeros((1, 3), np.uint8), 10, 3)
