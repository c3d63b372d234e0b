"""Photos kept as codes: a Parquet data set that is searched by words and turned back into pictures."""

from .archive import TokenArchive
from .query import Query
from .search import Found, Searcher
from .shards import ArchiveError, ArchiveInfo, TokenizedPhoto

__all__ = ["ArchiveError", "ArchiveInfo", "Found", "Query", "Searcher", "TokenArchive", "TokenizedPhoto"]
