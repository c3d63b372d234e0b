"""What else the photos of an archive show: words that compete with those of a query."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..data.benchmark import read_class_list
from ..data.catalogue import BENCHMARKS
from ..modeling_pat import PatForSemanticSegmentation
from ..processing_pat import PatProcessor
from .shards import TokenizedPhoto
from .tables import CodeTables

NUM_WORDS = 16
# Cosine from which two words mean the same, once what all words have in common is taken off (our choice).
SAME_MEANING = 0.7


def common_words() -> list[str]:
    """Names of common things and stuff: COCO-Stuff's classes."""
    return [row["name"] for row in read_class_list(BENCHMARKS["coco_stuff_171"].classes)]


@dataclass
class Context:
    """
    The common words that fill most of an archive's photos.

    A query of one word asks how much of a photo is that rather than something else. Without other words to compete
    with it, whatever is not the learned background would be counted.

    Args:
        embeds: Their embeddings, (num_words, projection_dim), unit length.
        center: (projection_dim,), the mean embedding of all common words.
    """

    embeds: torch.Tensor
    center: torch.Tensor

    @classmethod
    @torch.inference_mode()
    def find(
        cls,
        model: PatForSemanticSegmentation,
        processor: PatProcessor,
        tables: CodeTables,
        photos: Sequence[TokenizedPhoto],
    ) -> "Context":
        """Let all common words compete for the places of some photos and keep those that get most."""
        embeds = model.get_text_embeds(common_words(), processor)
        scores = tables.scores(model.add_background(embeds))
        total = torch.zeros(len(embeds))
        for photo in photos:
            places = tables.patch_scores(photo.to_tensors(), scores, photo.patch_grid)[0]
            total += (float(model.logit_scale.exp()) * places).softmax(-1)[:, :-1].mean(0)
        return cls(embeds[total.topk(NUM_WORDS).indices.to(embeds.device)], embeds.mean(0))

    def beside(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """Embeddings of those that mean something else than each of some words, (num_words, projection_dim)."""
        own, others = (F.normalize(embeds - self.center, dim=-1) for embeds in (text_embeds, self.embeds))
        return self.embeds[(others @ own.T).amax(1) < SAME_MEANING]
