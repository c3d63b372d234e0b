"""Tiny CLIPs and PATs: random weights, seeded, made in seconds and offline; images for them, and a few steps."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from transformers_pat.configuration_pat import PatConfig
from transformers_pat.image_processing_pil_pat import PatImageProcessorPil
from transformers_pat.modeling_pat import PatForSemanticSegmentation
from transformers_pat.processing_pat import PatProcessor

PATCH_SIZE = 8
NUM_WORDS = 5
PROJECTION_DIM = 24
# Different sizes, so that mixing up two levels shows.
TINY_PAT = {"hidden_size": 16, "codebook_sizes": (8, 12, 16), "codebook_dim": 8, "segmenter_channels": 8}
# The tiny checkpoint on disk: patches of 16 pixels, and photos scaled to 64.
TINY_CLIP_ON_DISK = {"vision": {"image_size": 64, "patch_size": 16}, "projection_dim": 16}
TINY_PAT_ON_DISK = {**TINY_PAT, "codebook_sizes": [16, 16, 16], "num_decoder_blocks": 1}


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: every byte is a token; end-of-text has the highest id, as in CLIP."""
    letters = sorted(ByteLevel.alphabet())
    pieces = ["<pad>", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token="<pad>")


def make_clip(vision=None, text=None, projection_dim=PROJECTION_DIM, seed=0) -> CLIPModel:
    """A CLIP of any shape; `vision` and `text` override fields of the tiny default."""
    tokenizer = make_tokenizer()
    layers = {"num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(
        text_config={**layers, "num_hidden_layers": 2, "vocab_size": len(tokenizer), **ids, **(text or {})},
        vision_config={**layers, "image_size": 32, "patch_size": PATCH_SIZE, **(vision or {})},
        projection_dim=projection_dim,
    )
    torch.manual_seed(seed)
    return CLIPModel(config).eval()


def make_config(clip: CLIPModel, **fields) -> PatConfig:
    """The configuration of a PAT around `clip`, without saying where that came from."""
    return PatConfig(
        vision_config=clip.config.vision_config.to_dict(),
        text_config=clip.config.text_config.to_dict(),
        projection_dim=clip.config.projection_dim,
        **fields,
    )


def tiny_processor(prompt_templates="simple", **kwargs) -> PatProcessor:
    """A processor that scales photos to 64 pixels; keywords are fields of the image processor."""
    size = kwargs.pop("size", {"shortest_edge": 64, "longest_edge": 128})
    return PatProcessor(PatImageProcessorPil(size=size, **kwargs), make_tokenizer(), prompt_templates)


def tiny_model() -> PatForSemanticSegmentation:
    """An untrained model with patches of 16 pixels, eval mode."""
    config = make_config(make_clip(**TINY_CLIP_ON_DISK), **TINY_PAT_ON_DISK)
    torch.manual_seed(0)
    return PatForSemanticSegmentation(config).eval()


def save_tiny_clip(folder: Path) -> None:
    """A `CLIPModel` with patches of 16 pixels, and its tokenizer."""
    make_clip(**TINY_CLIP_ON_DISK).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def save_tiny_checkpoint(folder: Path, vocabulary: list[str] | None = None) -> None:
    """A PAT around such a CLIP, with its processor."""
    save_tiny_clip(folder / "clip")
    model = PatForSemanticSegmentation.from_clip_pretrained(folder / "clip", **TINY_PAT_ON_DISK)
    processor = tiny_processor(size={"shortest_edge": 64, "longest_edge": 192})
    if vocabulary:
        model.set_vocabulary(vocabulary, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def random_images(*shape, seed=2) -> torch.Tensor:
    """Seeded pixel values, smooth enough that neighbouring patches resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = shape
    coarse = torch.randn(batch, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return smooth + 0.1 * torch.randn(batch, 3, height, width, generator=generator)


def photo(height=96, width=128, seed=0) -> Image.Image:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def train_steps(model, steps, learning_rate=1e-2, **inputs):
    """A few AdamW steps on one batch, as a training script would make them; returns the last output."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], learning_rate)
    text_embeds = inputs.pop("text_embeds", None)
    for _ in range(steps):
        words = {} if text_embeds is None else {"text_embeds": model.add_background(text_embeds)}
        output = model(**inputs, **words)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return output
