"""What `make bench` runs, on tiny cases, and the document that it writes."""

import subprocess
import sys

from benchmarks.performance import document
from benchmarks.performance.timing import Row, row

from .support.documents import ROOT


def test_a_part_runs_in_a_process_of_its_own():
    command = [sys.executable, "-m", "benchmarks.performance", "--quick", "--only", "codes", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "codes: exact masks from codes, 10 words" in done.stdout


def test_ratios_are_of_the_same_round():
    times = {"ours": [1.0, 2.0, 8.0], "theirs": [2.0, 4.0, 4.0]}
    slower = row("aims", "ours", "theirs", times, aim="≤ 1")
    assert (slower.seconds, slower.ratio, slower.spread) == (2.0, 0.5, "0.5 to 2")
    assert row("aims", "ours", "theirs", times, faster=True).ratio == 2.0


def test_the_document_has_every_row(tmp_path):
    rows = [Row(part, f"task of {part}", "CLIP", 1.0, 1.25, x=3) for part in document.PARTS]
    document.draw(rows, tmp_path / "images" / "curves.png")
    document.write(rows, "torch 2", tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert all(f"| task of {part} | CLIP | 1 | 1.25 × |" in text for part in document.PARTS)
    assert (tmp_path / "images" / "curves.png").stat().st_size > 1000
