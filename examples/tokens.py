"""What a checkpoint's tokens hold: usage and perplexity of each codebook, bits per pixel, PSNR by levels decoded.

python examples/tokens.py --data ../data/msrc_v2:test --model CHECKPOINT
"""

import math
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from transformers_pat import PAT_NANO, PatModel, PatProcessor
from transformers_pat.arguments import parse_arguments, run_script
from transformers_pat.sources import read_source


@dataclass
class TokensConfig:
    data: str = field(metadata={"help": "Photos: FOLDER:SPLIT, or JSON with the fields of DataSource."})
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint: a folder or a Hub name."})


@torch.no_grad()
def main() -> None:
    args = parse_arguments(TokensConfig, __doc__)
    dataset = read_source(args.data).open()
    model = PatModel.from_pretrained(args.model).eval()
    processor = PatProcessor.from_pretrained(args.model)
    sizes = model.config.codebook_sizes
    counts = [torch.zeros(size, dtype=torch.long) for size in sizes]
    # Images are compared where colours are seen: 0 to 1, after undoing the normalisation.
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    psnr, bits, pixels = [[] for _ in sizes], [0.0] * len(sizes), 0
    for sample in tqdm(dataset):
        pixel_values = processor(images=[sample.image], return_tensors="pt").pixel_values
        size = tuple(pixel_values.shape[-2:])
        codes = model.encode(pixel_values).codes
        pixels += size[0] * size[1]
        original = pixel_values[0] * std + mean
        for level, level_codes in enumerate(codes):
            counts[level] += torch.bincount(level_codes.flatten(), minlength=sizes[level])
            bits[level] += level_codes.numel() * math.log2(sizes[level])
            decoded = model.decode(codes, num_levels=level + 1, output_size=size)[0] * std + mean
            psnr[level].append(-10 * math.log10((decoded.clamp(0, 1) - original).square().mean().item()))
    table = Table("level", "codes", "used", "perplexity", "bits/pixel", "PSNR up to here, dB", title=args.data)
    for level, count in enumerate(counts):
        share = count / count.sum()
        table.add_row(
            str(level),
            str(sizes[level]),
            f"{(count > 0).float().mean():.1%}",
            f"{torch.special.entr(share).sum().exp():.0f}",
            f"{bits[level] / pixels:.4f}",
            f"{sum(psnr[level]) / len(psnr[level]):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    run_script(main)
