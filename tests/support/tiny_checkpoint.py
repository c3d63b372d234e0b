"""A complete PAT checkpoint with random weights and a tokenizer that spells words out, made in a second."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from transformers_pat import PatForSemanticSegmentation, PatImageProcessorPil, PatProcessor


def spelling_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: a word is its letters."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77)


def save_tiny_clip(folder: Path) -> None:
    """A `CLIPModel` with random weights, patch 16, 32 wide, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = spelling_tokenizer()
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4}
    text = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 64, "patch_size": 16}, text_config={**tower, **text}, projection_dim=16
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_tiny_checkpoint(folder: Path, vocabulary: list[str] | None = None) -> None:
    """A PAT around such a CLIP, with its processor; photos are scaled to 64 pixels."""
    save_tiny_clip(folder / "clip")
    sizes = {"codebook_sizes": [16, 16, 16], "codebook_dim": 8, "hidden_size": 16, "refiner_channels": 4}
    model = PatForSemanticSegmentation.from_clip_pretrained(folder / "clip", num_decoder_blocks=1, **sizes)
    image_processor = PatImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 192})
    processor = PatProcessor(image_processor, spelling_tokenizer())
    if vocabulary:
        model.set_vocabulary(vocabulary, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
