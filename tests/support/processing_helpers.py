"""A tokenizer, a processor and a model small enough for tests, without any download."""

import numpy as np
import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode

from transformers_pat.configuration_pat import PatConfig
from transformers_pat.image_processing_pil_pat import PatImageProcessorPil
from transformers_pat.modeling_pat import PatForSemanticSegmentation
from transformers_pat.processing_pat import PatProcessor


def tiny_tokenizer() -> CLIPTokenizer:
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<pad>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token="<pad>")


def tiny_processor(prompt_templates="simple", **kwargs) -> PatProcessor:
    size = kwargs.pop("size", {"shortest_edge": 64, "longest_edge": 128})
    return PatProcessor(PatImageProcessorPil(size=size, **kwargs), tiny_tokenizer(), prompt_templates)


def tiny_model() -> PatForSemanticSegmentation:
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    tokenizer = tiny_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = PatConfig(
        vision_config=CLIPVisionConfig(image_size=64, patch_size=16, **tower),
        text_config=CLIPTextConfig(**tower, **text),
        projection_dim=16,
        hidden_size=16,
        codebook_sizes=(16, 16, 16),
        codebook_dim=8,
    )
    return PatForSemanticSegmentation(config).eval()


def photo(height=96, width=128, seed=0) -> Image.Image:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
