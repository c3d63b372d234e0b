"""
The app, `transformers-pat app`: a page that segments photos, shows tokens and searches archives. Extra `app`.

`engine.py` computes, `viewer.py` and the files beside it draw masks in the page, `page.py` puts the page together.
"""

from .engine import Engine
from .page import build_page, launch

__all__ = ["Engine", "build_page", "launch"]
