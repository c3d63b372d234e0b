"""The same words to what transformers has of text-prompted segmenters; random weights at true size."""

from collections.abc import Iterator

import torch
from transformers import AutoModel, CLIPSegConfig, CLIPSegForImageSegmentation, Sam3Config, Sam3LiteTextConfig

from .timing import Row, make_model, make_words, row, seconds, side_by_side

# CIDAS/clipseg-rd64-refined as its configuration on the Hub says.
CLIPSEG = {
    "vision_config": {"patch_size": 16},
    "use_complex_transposed_convolution": True,
    "reduce_dim": 64,
}
CLIPSEG_SIDE, CLIPSEG_LABELS, CLIPSEG_BATCH = 352, 150, 10
SAM3_SIDE, SAM3_LABELS, PROMPT_TOKENS = 1008, 20, 8


@torch.inference_mode()
def measure(quick: bool = False) -> Iterator[Row]:
    """CLIPSeg, SAM 3 and SAM 3 with the small text tower, each at its own size and with as many words for PAT."""
    yield from clipseg(10 if quick else CLIPSEG_LABELS)
    if not quick:
        yield from sam3("SAM 3", Sam3Config())
        yield from sam3("SAM 3 LiteText", Sam3LiteTextConfig())


def clipseg(num_labels: int) -> Iterator[Row]:
    """As transformers documents it, with a copy of the photo per word; and with one vision forward for all words."""
    torch.manual_seed(0)
    model = CLIPSegForImageSegmentation(CLIPSegConfig(**CLIPSEG)).eval()
    pat = make_model("ViT-B/16")
    pixel_values = torch.randn(1, 3, CLIPSEG_SIDE, CLIPSEG_SIDE)
    words, prompts = make_words(pat, num_labels), torch.randn(num_labels, model.config.projection_dim)
    layers = model.config.extract_layers

    def with_copies():
        for part in prompts.split(CLIPSEG_BATCH):
            model(pixel_values=pixel_values.expand(len(part), -1, -1, -1), conditional_embeddings=part)

    def with_one_vision_forward():
        hidden_states = model.clip.vision_model(pixel_values, output_hidden_states=True).hidden_states
        activations = [hidden_states[layer + 1] for layer in layers]
        for part in prompts.split(CLIPSEG_BATCH):
            model.decoder([one.expand(len(part), -1, -1) for one in activations], part)

    what = f"PAT, ViT-B/16, {CLIPSEG_SIDE} px, {num_labels} labels"
    ours = {what: lambda: pat(pixel_values, text_embeds=words)}
    slow, quicker = "CLIPSeg, as documented", "CLIPSeg, one vision forward for all words"
    times = side_by_side({**ours, quicker: with_one_vision_forward}, 3)
    yield row("peers", what, quicker, times, faster=True)
    one = seconds(with_copies)  # minutes: once, against a run of ours beside it
    times = {what: [seconds(ours[what])], slow: [one]}
    yield row("peers", what, slow, times, faster=True, aim="≥ 50")


def sam3(name: str, config) -> Iterator[Row]:
    """Its vision tower once, then each word."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    pixel_values = torch.randn(1, 3, SAM3_SIDE, SAM3_SIDE)
    input_ids = torch.randint(0, 1000, (SAM3_LABELS, PROMPT_TOKENS))

    def segment():
        vision = model.get_vision_features(pixel_values)
        for prompt in input_ids:
            model(vision_embeds=vision, input_ids=prompt[None], attention_mask=torch.ones_like(prompt[None]))

    peer = f"{name}, {SAM3_SIDE} px, {SAM3_LABELS} words one by one"
    pat = make_model("ViT-B/16")
    words = make_words(pat, SAM3_LABELS)
    what = f"PAT, ViT-B/16, {SAM3_SIDE} px, {SAM3_LABELS} labels"
    pat(pixel_values, text_embeds=words)  # minutes for SAM 3: once, against a warm run of ours
    times = {peer: [seconds(segment)], what: [seconds(lambda: pat(pixel_values, text_embeds=words))]}
    yield row("peers", what, peer, times, faster=True)
