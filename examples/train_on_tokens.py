"""Tokens as a data set: a tiny GPT-2 learns the codes of an archive, then makes up new ones, which are decoded.

python examples/train_on_tokens.py archive --steps 500 --output dreams.png

Plain transformers and datasets; the photos themselves are not needed.
"""

import argparse
from collections import Counter

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from transformers_pat import PAT_NANO, PatModel, PatProcessor
from transformers_pat.archive import TokenArchive
from transformers_pat.reconstruction import to_image
from transformers_pat.visualization import contact_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="made by `transformers-pat tokenize`")
    parser.add_argument("--model", default=PAT_NANO, help="checkpoint that made the codes")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--output", default="dreams.png", help="picture of what it makes up")
    args = parser.parse_args()
    set_seed(0)

    # The two coarsest levels of the photos of the most frequent shape, as one sequence: coarse codes, then finer ones.
    dataset = TokenArchive(args.archive).to_dataset()
    shapes = [(len(row["codes_1"]), len(row["codes_1"][0])) for row in dataset]
    (rows, columns), _ = Counter(shapes).most_common(1)[0]
    dataset = dataset.select([index for index, shape in enumerate(shapes) if shape == (rows, columns)])
    pat = PatModel.from_pretrained(args.model).eval()
    first, second = pat.config.codebook_sizes[:2]
    start = first + second  # a token of its own begins every photo

    def to_sequence(row: dict) -> dict:
        coarse, fine = (torch.tensor(row[name]).flatten() for name in ("codes_0", "codes_1"))
        return {"input_ids": [start, *coarse.tolist(), *(first + fine).tolist()]}

    sequences = dataset.map(to_sequence, remove_columns=dataset.column_names)
    length = len(sequences[0]["input_ids"])
    config = GPT2Config(vocab_size=start + 1, n_positions=length, n_embd=128, n_layer=4, n_head=4, bos_token_id=start)
    config.eos_token_id = None
    model = GPT2LMHeadModel(config)
    arguments = TrainingArguments(
        "runs/tokens", max_steps=args.steps, per_device_train_batch_size=8, learning_rate=1e-3, save_strategy="no",
        report_to="none", logging_steps=50, warmup_steps=20, lr_scheduler_type="cosine",
    )  # fmt: skip

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([row["input_ids"] for row in batch])
        return {"input_ids": ids, "labels": ids}

    Trainer(model, arguments, train_dataset=sequences, data_collator=collate).train()

    grid = len(dataset[0]["codes_0"]), len(dataset[0]["codes_0"][0])
    prompt = torch.full((4, 1), start)
    made = model.eval().generate(prompt, max_length=length, do_sample=True, top_k=50, use_cache=True)[:, 1:]
    coarse, fine = made[:, : grid[0] * grid[1]], made[:, grid[0] * grid[1] :] - first
    codes = [coarse.clamp(max=first - 1).view(-1, *grid), fine.clamp(0, second - 1).view(-1, rows, columns)]
    with torch.no_grad():
        pixel_values = pat.decode(codes)
    processor = PatProcessor.from_pretrained(args.model)
    pictures = [to_image(pixels, processor) for pixels in pixel_values]
    contact_sheet([(f"made up by {model.num_parameters() / 1e6:.1f} M parameters", pictures)]).save(args.output)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
