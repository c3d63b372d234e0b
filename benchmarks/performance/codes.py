"""Stored codes against pixels, ViT-B/16 with random weights: exact masks, and ranking by a table per level."""

from collections.abc import Iterator

import torch

from transformers_pat.archive.tables import CodeTables

from .timing import Row, make_model, make_words, row, side_by_side

SIDE = 640
PHOTOS_RANKED = 64
EXACT_AIMS = {10: "≥ 20", 150: "≥ 5"}


@torch.inference_mode()
def measure(quick: bool = False) -> Iterator[Row]:
    """Ten and 150 words."""
    side, rounds = (224, 1) if quick else (SIDE, 3)
    model = make_model("ViT-B/16")
    pixel_values = torch.randn(1, 3, side, side)
    codes = model.pat.encode(pixel_values).codes
    grid = (side // 16, side // 16)
    many = [level.expand(PHOTOS_RANKED, -1, -1).to(torch.int32) for level in codes]
    config = model.config
    embeds = [torch.randn(size, config.projection_dim) for size in config.codebook_sizes]
    tables = CodeTables(embeds, torch.randn(config.projection_dim), tuple(config.level_strides))
    for count, aim in EXACT_AIMS.items():
        words = make_words(model, count)
        scores = tables.scores(words)
        pixels = f"from pixels, {side} px, {count} words"
        exact, ranked = f"exact masks from codes, {count} words", f"a photo ranked by tables, {count} words"
        tasks = {
            pixels: lambda words=words: model(pixel_values, text_embeds=words),
            exact: lambda words=words: model.segment_codes(codes, words),
            ranked: lambda scores=scores: tables.patch_scores(many, scores, grid).amax(1),
        }
        times = side_by_side(tasks, rounds)
        times[ranked] = [one / PHOTOS_RANKED for one in times[ranked]]
        yield row("codes", exact, pixels, times, faster=True, aim=aim)
        yield row("codes", ranked, pixels, times, faster=True, aim="≥ 200")
