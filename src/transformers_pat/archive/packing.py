"""Codes as bytes at their true bit width: 10 bits for 1,024 codes, not 64."""

import numpy as np


def bit_width(codebook_size: int) -> int:
    """Bits that one code of a codebook of this size takes, 1 to 16 for up to 65,536 codes."""
    return max(1, (codebook_size - 1).bit_length())


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed codes."""
    return -(-count * bits // 8)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """
    Pack the codes of several photos, each photo on its own.

    Args:
        codes: (photos, count) integers below 2 ** bits.
        bits: Bits per code, 1 to 16.

    Returns:
        (photos, packed_size(count, bits)) uint8. Bit i of code n is bit (n * bits + i) of the row, counted from the
        lowest bit of the first byte; the last byte is filled with zeros.

    Raises:
        ValueError: If a code does not fit.
    """
    if codes.size and not 0 <= codes.min() <= codes.max() < 2**bits:
        raise ValueError(f"codes from {codes.min()} to {codes.max()} don't fit in {bits} bits")
    planes = (codes.astype(np.uint16)[:, :, None] >> np.arange(bits, dtype=np.uint16)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(len(codes), codes.shape[1] * bits), axis=1, bitorder="little")


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """
    The codes of [`pack`].

    Args:
        packed: (photos, packed_size(count, bits)) uint8.
        bits: Bits per code, 1 to 16.
        count: Codes per photo.

    Returns:
        (photos, count) uint16.

    Raises:
        ValueError: If the bytes are not those of `count` codes.
    """
    if packed.shape[1] != packed_size(count, bits):
        raise ValueError(f"{count} codes of {bits} bits take {packed_size(count, bits)} bytes, got {packed.shape[1]}")
    if not count:
        return np.zeros((len(packed), 0), dtype=np.uint16)
    # Each code lies in three bytes at most: one pass per byte instead of one per bit.
    first, shift = np.divmod(np.arange(count) * bits, 8)
    padded = np.pad(packed, ((0, 0), (0, 2)))
    window = padded[:, first].astype(np.uint32)
    window |= padded[:, first + 1].astype(np.uint32) << 8
    if (shift + bits).max() > 16:
        window |= padded[:, first + 2].astype(np.uint32) << 16
    return ((window >> shift.astype(np.uint32)) & (2**bits - 1)).astype(np.uint16)
