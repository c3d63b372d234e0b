"""Makes transformers' tests and the helpers of our own importable; writes docs/conformance.md after the run."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
os.environ["RUN_SLOW"] = "1"  # read when transformers.testing_utils is imported

from fetch_tests import ROOT, fetch

sys.path[:0] = [str(fetch()), str(ROOT)]


def pytest_terminal_summary(terminalreporter):
    """Write the page from the outcome of the tests, if all of them ran."""
    from report import write_page

    write_page(terminalreporter.stats, ROOT / "docs" / "conformance.md")
