"""Old name of `transformers_pat.data.source`, kept for code that imports it."""

from .data.source import DataSource, read_source

__all__ = ["DataSource", "read_source"]
