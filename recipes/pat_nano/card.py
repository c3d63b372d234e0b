"""Writes the card of the packaged checkpoint from its measured results.

python -m recipes.pat_nano.card
"""

import json
from pathlib import Path
from string import Template

from transformers_pat import PAT_NANO
from transformers_pat.evaluation.report import markdown_table

from .splits import MEASURED

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results" / "pat_nano.json"
TITLES = {
    "PAT": "class names",
    "training-free baseline": "training-free: CLIP's dense features, no PAT",
    "PAT, held-out synonyms": "held-out synonyms",
    "PAT, from codes alone": "from stored codes alone",
}


def render() -> str:
    """The card, with a table of mIoU by data set."""
    measured = json.loads(RESULTS.read_text(encoding="utf-8"))["segmentation"]
    rows = [
        (title, *(f"{measured[name][data]['mean_iou']:.3f}" for data in MEASURED)) for name, title in TITLES.items()
    ]
    table = markdown_table(("", *map(" ".join, MEASURED.items())), rows)
    return Template((HERE / "card.md.in").read_text(encoding="utf-8")).substitute(table=table)


if __name__ == "__main__":
    Path(PAT_NANO, "README.md").write_text(render(), encoding="utf-8")
