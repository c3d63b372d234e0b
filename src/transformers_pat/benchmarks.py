"""Old name of `transformers_pat.data.catalogue`, kept for code that imports it."""

from .data.catalogue import BENCHMARKS, open_benchmark

__all__ = ["BENCHMARKS", "open_benchmark"]
