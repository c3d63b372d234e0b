"""Writes docs/ablation.md from the figures that recipes/pat_nano/ablation.py left in docs/results/ablation.json.

python -m recipes.pat_nano.evidence.trainings
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers_pat.cli.arguments import parse_arguments, run_script

from . import curves
from .ablation import Ablation

DOCS = Path(__file__).parents[3] / "docs"
TEMPLATE = Path(__file__).with_name("ablation.md.in")


@dataclass
class TrainingsConfig:
    figures: str = field(default=str(DOCS / "results" / "ablation.json"), metadata={"help": "Figures of all runs."})
    output: str = field(default=str(DOCS / "ablation.md"), metadata={"help": "File to write, with images/ beside it."})


def main() -> None:
    args = parse_arguments(TrainingsConfig, __doc__)
    figures = Ablation(Path(args.figures))
    sections = {
        "ABLATION": figures.table("mean_iou"),
        "BOUNDARIES": figures.table("boundary_mean_iou"),
        "HELD_OUT": figures.held_out_table(),
        "VERDICTS": figures.verdicts(),
        "LONG": figures.long_table(),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, section in sections.items():
        text = text.replace("{" + name + "}", section)
    curves.draw(figures, Path(args.output).parent / "images" / "learning_curves.png")
    Path(args.output).write_text(text, encoding="utf-8")
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    run_script(main)
