"""Data sets: what a sample is, readers for folders, `datasets` and benchmarks, and one line that names any of them."""

from .base import BACKGROUND, IGNORE_INDEX, BadSampleError, FolderDataset, PhotoFolder, Sample, SegmentationDataset
from .catalogue import BENCHMARKS, open_benchmark
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
