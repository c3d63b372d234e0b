"""
Data sets.

`base.py` says what a sample and a data set are. `folder.py`, `hub.py` and `benchmark.py` read plain folders, the
`datasets` library and official downloads; `catalogue.py` declares the benchmarks. `source.py` opens any of them from
one line of a config.
"""

from ..prompts_pat import BACKGROUND
from .base import IGNORE_INDEX, BadSampleError, Sample, SegmentationDataset
from .catalogue import BENCHMARKS, open_benchmark
from .folder import FolderDataset, PhotoFolder
from .source import DataSource, read_source

__all__ = [
    "BACKGROUND",
    "BENCHMARKS",
    "IGNORE_INDEX",
    "BadSampleError",
    "DataSource",
    "FolderDataset",
    "PhotoFolder",
    "Sample",
    "SegmentationDataset",
    "open_benchmark",
    "read_source",
]
