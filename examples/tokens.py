"""What a checkpoint's tokens hold: use of each codebook, bits per pixel, PSNR by number of levels decoded.

python examples/tokens.py --data ../data/msrc_v2:test --model CHECKPOINT
"""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from transformers_pat import PAT_NANO, PatModel, PatProcessor
from transformers_pat.cli.arguments import parse_arguments, run_script
from transformers_pat.data import read_source
from transformers_pat.evaluation.tokens import evaluate_tokens


@dataclass
class TokensConfig:
    data: str = field(metadata={"help": "Photos: FOLDER:SPLIT, or JSON with the fields of DataSource."})
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint: a folder or a Hub name."})


def main() -> None:
    args = parse_arguments(TokensConfig, __doc__)
    dataset = read_source(args.data).open()
    model = PatModel.from_pretrained(args.model).eval()
    processor = PatProcessor.from_pretrained(args.model)
    table = Table("level", "codes", "used", "perplexity", "bits/pixel up to here", "PSNR, dB", title=args.data)
    for row in evaluate_tokens(model, processor, dataset):
        cells = (row.level, row.codebook_size, f"{row.usage:.1%}", f"{row.perplexity:.0f}")
        table.add_row(*map(str, cells), f"{row.bits_per_pixel:.4f}", f"{row.psnr:.2f}")
    Console().print(table)


if __name__ == "__main__":
    run_script(main)
