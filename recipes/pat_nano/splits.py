"""The splits that no training uses, and that every table measures."""

from __future__ import annotations

from pathlib import Path

from transformers_pat.data import FolderDataset

MEASURED = {"camvid": "val", "msrc_v2": "test", "voc_animals": "val"}


def measured_sets(data: Path) -> dict[str, FolderDataset]:
    """The measured splits of the data sets in `data`."""
    return {name: FolderDataset(data / name, split) for name, split in MEASURED.items()}
