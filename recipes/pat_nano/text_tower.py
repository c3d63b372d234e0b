"""Distils the text tower of pat-nano: a small CLIP text model that puts a text where the teacher's space has it.

    python recipes/pat_nano/text_tower.py --data DATA --class-names LISTS --work WORK [--wordnet /usr/share/wordnet]

Writes WORK/text_space.pt (what the vision tower starts from), WORK/text_corpus.pt and the folder WORK/text. With
`--space-only` it stops after the first.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path

import torch
from teacher import DIM, Teacher, TextSpace
from text_corpus import TEMPLATES, Corpus, build, fit_space
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import normalize
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
from vocabulary import HELD_OUT, TextTower

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
VOCABULARY = 4096
TOWER = dict(hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=6, hidden_act="gelu")
BATCH = 384
WORD_TOKENS, SENTENCE_TOKENS = 16, 24  # while training; the model takes 77


def train_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """A lower-casing byte-level BPE in CLIP's own form. The end mark must not have id 2: CLIP reads that as 'old'."""
    blank = CLIPTokenizer()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=EOS))
    tokenizer.normalizer = blank.backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    state = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    return CLIPTokenizer(vocab=state["vocab"], merges=merges, model_max_length=77)


def new_tower(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        projection_dim=DIM,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TOWER,
    )
    tower = CLIPTextModelWithProjection(config)
    tower.set_attn_implementation("eager")  # on a CPU and for short texts, twice as fast as the fused kernel
    return tower


class Batches:
    """Random batches: five of words, then one of sentences.

    A batch of words holds class names, nouns next to them and any nouns in equal parts, in and out of templates.
    """

    def __init__(self, corpus: Corpus, tokenizer: CLIPTokenizer, seed: int = 0):
        # A copy: a tokenizer keeps the length it last cut texts to, and would be saved with it.
        self.corpus, self.tokenizer = corpus, copy.deepcopy(tokenizer)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (BATCH, length) and targets (BATCH, 256)."""
        corpus = self.corpus
        if step % 6 == 5:
            rows = torch.randint(corpus.words, len(corpus.texts), (BATCH,), generator=self.generator)
            texts, length = [corpus.texts[i] for i in rows], SENTENCE_TOKENS
        else:
            thirds = ((0, corpus.classes), (corpus.classes, corpus.near), (corpus.classes, corpus.words))
            rows = torch.cat([torch.randint(*span, (BATCH // 3,), generator=self.generator) for span in thirds])
            templates = torch.randint(2 * len(TEMPLATES), rows.shape, generator=self.generator).tolist()
            texts, length = [corpus.texts[i] for i in rows], WORD_TOKENS
            texts = [
                TEMPLATES[t].format(x) if t < len(TEMPLATES) else x for t, x in zip(templates, texts, strict=True)
            ]
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        return tokens.input_ids, corpus.targets[rows]


def distillation_loss(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """One minus the cosine, and how far the texts' similarities to each other are off."""
    student = normalize(student.float(), dim=-1)
    off = student @ student.T - target @ target.T
    return (1 - (student * target).sum(-1)).mean() + 10 * off.square().mean()


def train(
    corpus: Corpus, steps: int, rate: float, start: TextTower | None, log
) -> tuple[CLIPTextModelWithProjection, CLIPTokenizer]:
    tokenizer = start.tokenizer if start else train_tokenizer(corpus.texts)
    tower = start.model.train() if start else new_tower(tokenizer)
    log(f"{sum(p.numel() for p in tower.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens, {steps} steps")
    matrices = [p for n, p in tower.named_parameters() if "encoder" in n and p.ndim == 2]
    other = [p for n, p in tower.named_parameters() if not ("encoder" in n and p.ndim == 2)]
    optimizers = [
        torch.optim.AdamW(other, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    batches, recent = Batches(corpus, tokenizer), []
    for step in range(steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = (
                rate * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            )
        ids, target = batches.draw(step)
        loss = distillation_loss(tower(input_ids=ids).text_embeds, target)
        tower.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            log(f"step {step + 1} loss {sum(recent) / len(recent):.4f}")
            recent = []
    return tower.eval(), tokenizer


@torch.no_grad()
def embed(tower: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    return normalize(tower(**tokenizer(texts, padding=True, return_tensors="pt")).text_embeds, dim=-1)


def synonym_report(embedder) -> list[str]:
    """For each measured data set: how many held-out synonyms lie nearest to their own class name."""
    lines = []
    for data_set, words in json.loads(HELD_OUT.read_text()).items():
        names = list(words)
        nearest = (embedder(list(words.values())) @ embedder(names).T).argmax(1).tolist()
        wrong = [f"{w} -> {names[n]}" for i, (w, n) in enumerate(zip(words.values(), nearest, strict=True)) if i != n]
        lines.append(f"{data_set}: {len(names) - len(wrong)} of {len(names)} {wrong or ''}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--class-names", type=Path, required=True, help="folder of the benchmarks' class name lists")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is written")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="a text tower to go on from; what it makes of class names stays")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--space-only", action="store_true", help="stop when the text space is written")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    def log(text: str) -> None:
        print(time.strftime("%H:%M:%S"), text, flush=True)

    if not (args.work / "text_space.pt").is_file():
        fit_space(args.data, args.class_names, args.wordnet).save(args.work / "text_space.pt")
        log("text space written")
    if args.space_only:
        return
    space = TextSpace.load(args.work / "text_space.pt")
    start = TextTower(args.start) if args.start else None
    if not (args.work / "text_corpus.pt").is_file():
        corpus = build(args.data, args.class_names, args.wordnet, space, start)
        torch.save(tuple(corpus), args.work / "text_corpus.part")
        os.replace(args.work / "text_corpus.part", args.work / "text_corpus.pt")
    corpus = Corpus(*torch.load(args.work / "text_corpus.pt", weights_only=True))
    spans = f"{corpus.classes} class names, {corpus.near} with words next to them, {corpus.words} with all words"
    log(f"{len(corpus.texts)} texts: {spans}")
    torch.manual_seed(0)
    tower, tokenizer = train(corpus, args.steps, args.learning_rate, start, log)
    partial = args.work / "text.part"
    tower.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(args.work / "text")
    teacher = Teacher()
    for line in synonym_report(lambda texts: space(teacher(texts))):
        log(f"teacher, held-out synonyms: {line}")
    for line in synonym_report(lambda texts: embed(tower, tokenizer, texts)):
        log(f"student, held-out synonyms: {line}")


if __name__ == "__main__":
    main()
