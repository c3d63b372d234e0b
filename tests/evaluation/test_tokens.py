"""Scores of tokens, on reconstructions whose statistics are known."""

import pytest
import torch
from PIL import Image

from transformers_pat import PAT_NANO, PatModel, PatProcessor
from transformers_pat.data import PhotoFolder
from transformers_pat.evaluation.tokens import TokenMetric, evaluate_tokens
from transformers_pat.reconstruction import Reconstruction, reconstruct

from ..test_examples import EXAMPLES


def levels(codes, bits, psnr):
    picture = Image.new("RGB", (4, 4))
    return [
        Reconstruction(number, torch.tensor([of_level]), picture, *scores)
        for number, (of_level, *scores) in enumerate(zip(codes, psnr, bits, strict=True), 1)
    ]


def test_usage_and_perplexity_are_of_all_photos_and_the_rest_is_their_mean():
    metric = TokenMetric([4, 8])
    metric.update(levels([[0], [7, 7, 7, 7]], bits=[1, 2], psnr=[10, 20]))
    metric.update(levels([[1], [7, 7, 7, 7]], bits=[3, 4], psnr=[20, 40]))
    coarse, fine = metric.compute()
    assert (coarse.level, coarse.codebook_size, coarse.usage, coarse.bits_per_pixel, coarse.psnr) == (1, 4, 0.5, 2, 15)
    assert coarse.perplexity == pytest.approx(2)  # two codes, equally often
    assert (fine.level, fine.codebook_size, fine.usage, fine.bits_per_pixel, fine.psnr) == (2, 8, 1 / 8, 3, 30)
    assert fine.perplexity == pytest.approx(1)


def test_a_folder_of_photos_is_scored():
    model, processor = PatModel.from_pretrained(PAT_NANO).eval(), PatProcessor.from_pretrained(PAT_NANO)
    photos = PhotoFolder(EXAMPLES / "photos")
    photos.photos = photos.photos[:1]
    scores = evaluate_tokens(model, processor, photos, progress=False)
    original, reconstructions = reconstruct(model, processor, photos[0].image)
    assert original.size == reconstructions[0].image.size
    for score, reconstruction in zip(scores, reconstructions, strict=True):
        assert score.psnr == reconstruction.psnr and score.bits_per_pixel == reconstruction.bits_per_pixel
        assert score.usage == len(reconstruction.codes.unique()) / score.codebook_size
    # More levels cost more bits and come nearer to the photo.
    assert [score.bits_per_pixel for score in scores] == sorted(score.bits_per_pixel for score in scores)
    assert scores[0].psnr < scores[-1].psnr
