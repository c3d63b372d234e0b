"""What a checkpoint's tokens hold: usage and perplexity of each codebook, bits per pixel, PSNR by levels decoded.

python examples/tokens.py --data ../data/msrc_v2:test --model CHECKPOINT
"""

from dataclasses import dataclass, field
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from transformers_pat import PAT_NANO, PatModel, PatProcessor
from transformers_pat.cli.arguments import parse_arguments, run_script
from transformers_pat.codebook_pat import code_statistics
from transformers_pat.data.source import read_source
from transformers_pat.inference import reconstruct


@dataclass
class TokensConfig:
    data: str = field(metadata={"help": "Photos: FOLDER:SPLIT, or JSON with the fields of DataSource."})
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint: a folder or a Hub name."})


def main() -> None:
    args = parse_arguments(TokensConfig, __doc__)
    dataset = read_source(args.data).open()
    model = PatModel.from_pretrained(args.model).eval()
    processor = PatProcessor.from_pretrained(args.model)
    sizes = model.config.codebook_sizes
    counts = [torch.zeros(size, dtype=torch.long) for size in sizes]
    figures = [[] for _ in sizes]  # (bits per pixel, PSNR) of every photo
    for sample in tqdm(dataset):
        _, reconstructions = reconstruct(model, processor, sample.image)
        for count, figure, reconstruction in zip(counts, figures, reconstructions, strict=True):
            count += torch.bincount(reconstruction.codes.flatten(), minlength=len(count))
            figure.append((reconstruction.bits_per_pixel, reconstruction.psnr))
    table = Table("level", "codes", "used", "perplexity", "bits/pixel up to here", "PSNR, dB", title=args.data)
    for number, (count, figure) in enumerate(zip(counts, figures, strict=True)):
        used, perplexity = code_statistics(count)
        bits, psnr = map(mean, zip(*figure, strict=True))
        cells = (len(count), f"{used:.1%}", f"{perplexity:.0f}", f"{bits:.4f}", f"{psnr:.2f}")
        table.add_row(str(number + 1), *map(str, cells))
    Console().print(table)


if __name__ == "__main__":
    run_script(main)
