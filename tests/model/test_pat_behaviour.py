"""What PAT promises: codes and pixels, guidance and baseline, frozen CLIP, any size, any vocabulary."""

import copy

import pytest
import torch
import torch.nn.functional as F

from transformers_pat.layers_pat import ZeroLinear
from transformers_pat.losses_pat import segmentation_loss
from transformers_pat.modeling_pat import PatForSemanticSegmentation, PatModel
from transformers_pat.processing_pat import PatProcessor

from ..support.tiny import NUM_WORDS, PATCH_SIZE, PROJECTION_DIM, make_clip, random_images, train_steps

# 640×480, 481×333 and 1×2000 at a tenth, smaller than a patch, CLIP's own size, an odd number of patches.
SIZES = [(64, 48), (48, 33), (1, 200), (5, 3), (32, 32), (24, 40)]
ANY_SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@pytest.fixture
def processor(clip_folder):
    return PatProcessor.from_clip_pretrained(clip_folder)


# Guidance and baseline


@torch.no_grad()
@ANY_SIZE
def test_untrained_guidance_equals_the_baseline(make_segmenter, text_embeds, size):
    guided = make_segmenter()
    baseline = make_segmenter(token_guidance=False)
    baseline.load_state_dict(guided.state_dict(), strict=False)
    pixel_values = random_images(2, *size)
    expected = baseline(pixel_values, text_embeds=text_embeds).logits
    assert torch.equal(guided(pixel_values, text_embeds=text_embeds).logits, expected)


@torch.no_grad()
def test_an_untrained_segmenter_is_plain_similarity(make_segmenter, pixel_values, text_embeds):
    model = make_segmenter()
    dense_embeds = model.pat.extract_features(pixel_values).dense_embeds.permute(0, 3, 1, 2)
    similarity = model.logit_scale.exp() * torch.einsum("bdhw,ld->blhw", dense_embeds, text_embeds)
    expected = F.interpolate(similarity, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(model(pixel_values, text_embeds=text_embeds).logits, expected)


@torch.no_grad()
def test_baseline_of_a_trained_model_lacks_only_the_guidance(segmenter, pixel_values, text_embeds, tmp_path):
    segmenter.save_pretrained(tmp_path)
    baseline = PatForSemanticSegmentation.from_pretrained(tmp_path, token_guidance=False)
    lacking = set(segmenter.state_dict()) - set(baseline.state_dict())
    assert lacking == {key for key in segmenter.state_dict() if key.startswith("segmenter.guidance.")}
    expected = segmenter(pixel_values, text_embeds=text_embeds).logits
    assert not torch.allclose(baseline(pixel_values, text_embeds=text_embeds).logits, expected)
    for module in segmenter.segmenter.guidance.modules():
        if isinstance(module, ZeroLinear):
            module.weight.zero_()
            module.bias.zero_()
    expected = segmenter(pixel_values, text_embeds=text_embeds).logits
    assert torch.equal(baseline(pixel_values, text_embeds=text_embeds).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("source", ["codes", "dense"])
def test_the_residual_is_bounded(make_segmenter, pixel_values, source):
    model = make_segmenter(embedding_residual_bound=0.25, guidance_source=source)
    residual = model.segmenter.guidance.residual
    torch.nn.init.normal_(residual.contract.weight, std=100)
    tokens = 100 * torch.randn(2, 5, 6, model.config.hidden_size)
    assert (residual(tokens).norm(dim=-1) <= 0.25 + 1e-6).all()


@torch.no_grad()
def test_residual_loss_counts_unlabelled_places_alone(segmenter, pixel_values, text_embeds, labels):
    torch.nn.init.normal_(segmenter.segmenter.guidance.residual.contract.weight)

    def loss(labels):
        return segmenter(pixel_values, text_embeds=text_embeds, labels=labels).residual_loss

    labelled = labels.where(labels != 255, 0)
    assert loss(labelled) == 0
    assert 0 < loss(torch.full_like(labels, 255)) < 1
    half = labelled.index_fill(0, torch.tensor([0]), 255)  # the first image has no label at all
    weight, segmenter.config.residual_loss_weight = segmenter.config.residual_loss_weight, 0.0
    without = segmenter(pixel_values, text_embeds=text_embeds, labels=half)
    segmenter.config.residual_loss_weight = weight
    output = segmenter(pixel_values, text_embeds=text_embeds, labels=half)
    torch.testing.assert_close(output.loss - without.loss, weight * output.residual_loss)


def test_without_a_residual_similarities_are_those_of_clip(make_segmenter, pixel_values, text_embeds, labels):
    model = make_segmenter(embedding_residual_bound=0)
    train_steps(model, 2, pixel_values=pixel_values, text_embeds=text_embeds, labels=labels)
    assert not any("residual" in name for name in model.state_dict())


@pytest.mark.parametrize("strides", [[2, 1, 0.5], [2, 1], [2]])
def test_every_stride_is_guided(make_segmenter, pixel_values, text_embeds, labels, strides):
    levels = len(strides)
    fields = {"level_strides": strides, "codebook_sizes": [8] * levels, "feature_layers": [[1]] * levels}
    model = make_segmenter(**fields)
    train_steps(model, 2, pixel_values=pixel_values, text_embeds=text_embeds, labels=labels)
    output = model(pixel_values, text_embeds=text_embeds, labels=labels)
    output.segmentation_loss.backward()
    guidance = model.segmenter.guidance
    assert all(p.grad is not None and p.grad.any() for p in guidance.parameters())


@torch.no_grad()
def test_guidance_by_clip_itself_ignores_the_codes(make_segmenter, pixel_values, text_embeds, labels):
    model = make_segmenter(guidance_source="dense")
    with torch.enable_grad():
        train_steps(model, 2, pixel_values=pixel_values, text_embeds=text_embeds, labels=labels)
    model.eval()
    expected = model(pixel_values, text_embeds=text_embeds).logits
    model.pat.codebooks[0].embed.neg_()
    assert torch.equal(model(pixel_values, text_embeds=text_embeds).logits, expected)


def test_a_baseline_can_become_a_pat(make_segmenter, tmp_path):
    make_segmenter(token_guidance=False).save_pretrained(tmp_path)
    model = PatForSemanticSegmentation.from_pretrained(tmp_path, token_guidance=True)
    assert not model.segmenter.guidance.start.weight.any() and not model.segmenter.guidance.start.bias.any()


@pytest.mark.parametrize("coupled", [False, True])
def test_segmentation_loss_reaches_the_codes_only_if_asked(segmenter, pixel_values, text_embeds, labels, coupled):
    segmenter.config.segmentation_updates_codes = coupled
    segmenter(pixel_values, text_embeds=text_embeds, labels=labels).segmentation_loss.backward()
    reached = [p.grad is not None and p.grad.any().item() for p in segmenter.pat.encoders.parameters()]
    assert any(reached) == coupled


# Codes


@torch.no_grad()
@ANY_SIZE
def test_codes_belong_to_the_image_alone(tokenizer_model, size):
    images = random_images(4, *size)
    together = tokenizer_model.encode(images).codes
    again = tokenizer_model.encode(images).codes
    for row in range(len(images)):
        alone = tokenizer_model.encode(images[row : row + 1]).codes
        for level in range(len(together)):
            assert torch.equal(alone[level][0], together[level][row])
            assert torch.equal(again[level], together[level])


@torch.no_grad()
def test_codes_are_integers_of_their_codebooks(tokenizer_model, pixel_values):
    codes = tokenizer_model.encode(pixel_values).codes
    assert [tuple(level.shape[1:]) for level in codes] == [(3, 3), (5, 6), (10, 12)]  # strides 16, 8 and 4 of 40×48
    for level, size in zip(codes, tokenizer_model.config.codebook_sizes, strict=True):
        assert level.dtype == torch.int64
        assert 0 <= level.min() and level.max() < size
        assert len(level.unique()) > 1


@torch.no_grad()
@ANY_SIZE
def test_decoded_codes_are_the_reconstruction(tokenizer_model, size):
    output = tokenizer_model(random_images(2, *size))
    assert output.reconstruction.shape == (2, 3, *size)
    assert torch.equal(tokenizer_model.decode(output.codes, output_size=size), output.reconstruction)
    assert torch.equal(tokenizer_model.get_patch_embeds(output.codes), output.patch_embeds)
    assert torch.equal(tokenizer_model.get_image_embeds(output.codes), output.image_embeds)


@torch.no_grad()
@ANY_SIZE
def test_any_prefix_of_levels_decodes(tokenizer_model, size):
    codes = tokenizer_model.encode(random_images(2, *size)).codes
    pictures = []
    for num_levels in (1, 2, 3):
        picture = tokenizer_model.decode(codes, num_levels=num_levels, output_size=size)
        assert picture.shape == (2, 3, *size)
        assert torch.equal(tokenizer_model.decode(codes[:num_levels], output_size=size), picture)
        pictures.append(picture)
    assert not torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[1], pictures[2])


@torch.no_grad()
def test_decoding_some_levels_reads_no_finer_code(tokenizer_model, pixel_values):
    codes = tokenizer_model.encode(pixel_values).codes
    other = (*codes[:2], (codes[2] + 1) % tokenizer_model.config.codebook_sizes[2])
    assert torch.equal(tokenizer_model.decode(codes, num_levels=2), tokenizer_model.decode(other, num_levels=2))
    assert not torch.equal(tokenizer_model.decode(codes), tokenizer_model.decode(other))


@torch.no_grad()
def test_usage_and_perplexity_are_those_of_the_codes(tokenizer_model, pixel_values):
    output = tokenizer_model(pixel_values)
    assert output.codebook_usage is None  # a mean over the batch: only in training
    usage, perplexity = tokenizer_model.codebooks.statistics(output.codes)
    for level, size in enumerate(tokenizer_model.config.codebook_sizes):
        used = len(output.codes[level].unique())
        assert usage[level] == pytest.approx(used / size)
        assert 1 <= perplexity[level] <= used + 1e-4


def test_codebooks_move_in_training_only(segmenter, pixel_values, text_embeds, labels):
    inputs = {"pixel_values": pixel_values, "text_embeds": text_embeds, "labels": labels}
    codebooks = segmenter.pat.codebooks
    before = copy.deepcopy(codebooks.state_dict())
    segmenter.eval()(**inputs).loss.backward()
    assert all(torch.equal(tensor, before[key]) for key, tensor in codebooks.state_dict().items())
    segmenter.train()(**inputs)
    assert all(not torch.equal(tensor, before[key]) for key, tensor in codebooks.state_dict().items())
    assert all(not list(codebook.parameters()) for codebook in codebooks)


@torch.no_grad()
def test_continuous_features_pass_if_asked(tokenizer_model, pixel_values):
    continuous = PatModel(
        type(tokenizer_model.config).from_dict({**tokenizer_model.config.to_dict(), "quantize": False})
    )
    continuous.load_state_dict(tokenizer_model.state_dict())
    output, expected = continuous.eval()(pixel_values), tokenizer_model(pixel_values)
    assert all(torch.equal(*level) for level in zip(output.codes, expected.codes, strict=True))
    assert output.commitment_loss == 0 < expected.commitment_loss
    assert not torch.allclose(output.reconstruction, expected.reconstruction)


def test_dead_codes_come_back(tokenizer_model, pixel_values):
    codebook = tokenizer_model.codebooks[2]
    codebook.embed[:8], codebook.embed_sum[:8], codebook.cluster_size[:8] = -codebook.embed[8:9], 0.0, 0.0
    tokenizer_model.config.level_dropout = 0.0
    train_steps(tokenizer_model, 5, learning_rate=1e-4, pixel_values=pixel_values)
    tokenizer_model.eval()
    usage, _ = tokenizer_model.codebooks.statistics(tokenizer_model.encode(pixel_values).codes)
    assert usage[2] > 0.8


# Segmentation


@torch.no_grad()
@ANY_SIZE
def test_segments_any_size(segmenter, text_embeds, size):
    logits = segmenter(random_images(2, *size), text_embeds=text_embeds).logits
    cell = PATCH_SIZE // 2
    assert logits.shape[:2] == (2, NUM_WORDS)
    for side, cells in zip(size, logits.shape[2:], strict=True):
        assert abs(cells - side / cell) <= 1
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_padding_never_reaches_a_result(segmenter, text_embeds):
    """An image whose last patches are cut equals one whose missing pixels repeat the border, cropped."""
    image = random_images(1, 40, 41)
    padded = F.pad(image, (0, 7, 0, 0), mode="replicate")
    cropped = segmenter(image, text_embeds=text_embeds).logits
    whole = segmenter(padded, text_embeds=text_embeds).logits
    truth = F.interpolate(whole, size=(40, 48), mode="bilinear")[..., :41]
    error = (F.interpolate(cropped, size=(40, 41), mode="bilinear") - truth).abs().mean()
    # Had the padding been squeezed into the map, everything would be shifted by up to seven pixels.
    squeezed = (F.interpolate(whole, size=(40, 41), mode="bilinear") - truth).abs().mean()
    assert error < 0.3 * squeezed


@torch.no_grad()
@ANY_SIZE
def test_segments_from_codes(segmenter, text_embeds, size):
    pixel_values = random_images(2, *size)
    codes = segmenter.pat.encode(pixel_values).codes
    from_pixels = segmenter(pixel_values, text_embeds=text_embeds)
    assert all(torch.equal(one, other) for one, other in zip(codes, from_pixels.codes, strict=True))
    segmenter.pat.vision_model = None  # not needed
    logits = segmenter.segment_codes(codes, text_embeds, output_size=size)
    assert logits.shape == from_pixels.logits.shape
    assert torch.isfinite(logits).all()


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (33, 20)])
def test_code_segmentation_loss_is_that_of_segmenting_from_codes(segmenter, text_embeds, size):
    pixel_values, labels = random_images(2, *size), torch.randint(0, NUM_WORDS, (2, *size))
    output = segmenter.eval()(pixel_values, text_embeds=text_embeds, labels=labels)
    logits = segmenter.segment_codes(output.codes, text_embeds, size)
    torch.testing.assert_close(output.code_segmentation_loss, segmentation_loss(logits, labels, 255))
    segmenter.config.code_segmentation_loss_weight = 0.0
    without = segmenter(pixel_values, text_embeds=text_embeds, labels=labels)
    assert without.code_segmentation_loss == 0
    torch.testing.assert_close(output.loss - without.loss, 0.5 * output.code_segmentation_loss)


@torch.no_grad()
def test_codes_of_faithful_features_segment_like_pixels(segmenter, pixel_values, text_embeds, monkeypatch):
    """With decoded patch embeddings equal to CLIP's own, nothing is lost by going through the codes."""
    expected = segmenter(pixel_values, text_embeds=text_embeds)
    dense_embeds = segmenter.pat.extract_features(pixel_values).dense_embeds
    monkeypatch.setattr(segmenter.pat, "to_patch_embeds", lambda decoded, patch_grid: dense_embeds)
    logits = segmenter.segment_codes(expected.codes, text_embeds)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@ANY_SIZE
def test_one_window_is_the_plain_forward(segmenter, text_embeds, size):
    pixel_values = random_images(2, *size)
    plain = segmenter(pixel_values, text_embeds=text_embeds).logits
    windowed = segmenter.segment_windows(pixel_values, 256, 128, text_embeds).logits
    assert torch.equal(windowed, plain)


@torch.no_grad()
def test_windows_cover_the_image_and_average(segmenter, text_embeds):
    pixel_values = random_images(1, 32, 48)
    windowed = segmenter.segment_windows(pixel_values, 32, 16, text_embeds).logits
    left = segmenter(pixel_values[..., :32], text_embeds=text_embeds).logits
    right = segmenter(pixel_values[..., 16:], text_embeds=text_embeds).logits
    torch.testing.assert_close(windowed[..., :4], left[..., :4])
    torch.testing.assert_close(windowed[..., 4:8], (left[..., 4:] + right[..., :4]) / 2)
    torch.testing.assert_close(windowed[..., 8:], right[..., 4:])


@torch.no_grad()
def test_mixed_sizes_are_each_image_alone(segmenter, text_embeds):
    sizes = [(40, 48), (32, 33), (17, 48), (40, 48)]
    images = [random_images(1, *size, seed=index) for index, size in enumerate(sizes)]
    padded, mask = pad_together(images)
    output = segmenter(padded, text_embeds=text_embeds, pixel_mask=mask)
    for row, image in enumerate(images):
        rows, columns = output.logits_sizes[row].tolist()
        alone = segmenter(image, text_embeds=text_embeds).logits[0]
        assert alone.shape[-2:] == (rows, columns)
        torch.testing.assert_close(output.logits[row, :, :rows, :columns], alone, rtol=1e-4, atol=1e-4)
        assert not output.logits[row, :, rows:].any() and not output.logits[row, :, :, columns:].any()


def pad_together(images):
    """Images of different sizes as one batch, and the mask of where each is; padding is far out of range."""
    height, width = (max(image.shape[axis] for image in images) for axis in (2, 3))
    padded = torch.full((len(images), 3, height, width), 100.0)
    mask = torch.zeros(len(images), height, width, dtype=torch.long)
    for row, image in enumerate(images):
        padded[row, :, : image.shape[2], : image.shape[3]] = image
        mask[row, : image.shape[2], : image.shape[3]] = 1
    return padded, mask


def test_loss_of_mixed_sizes_is_the_mean_over_images(segmenter, text_embeds):
    sizes = [(40, 48), (32, 40), (40, 48)]
    images = [random_images(1, *size, seed=index) for index, size in enumerate(sizes)]
    padded, mask = pad_together(images)
    labels = torch.where(mask.bool(), torch.randint(0, NUM_WORDS, mask.shape), 255)
    together = segmenter(padded, text_embeds=text_embeds, pixel_mask=mask, labels=labels)
    alone = [
        segmenter(image, text_embeds=text_embeds, labels=labels[row : row + 1, : image.shape[2], : image.shape[3]])
        for row, image in enumerate(images)
    ]
    for name in (
        "loss",
        "segmentation_loss",
        "code_segmentation_loss",
        "residual_loss",
        "reconstruction_loss",
        "feature_loss",
        "commitment_loss",
    ):
        torch.testing.assert_close(together[name], torch.stack([output[name] for output in alone]).mean())


@torch.no_grad()
def test_full_mask_is_no_mask(segmenter, pixel_values, text_embeds):
    mask = torch.ones_like(pixel_values[:, 0], dtype=torch.long)
    masked = segmenter(pixel_values, text_embeds=text_embeds, pixel_mask=mask)
    assert torch.equal(masked.logits, segmenter(pixel_values, text_embeds=text_embeds).logits)
    assert masked.logits_sizes is None


# Vocabularies


@torch.no_grad()
def test_reordered_labels_give_reordered_maps(segmenter, pixel_values, text_embeds):
    order = torch.tensor([3, 0, 4, 2, 1])
    logits = segmenter(pixel_values, text_embeds=text_embeds).logits
    reordered = segmenter(pixel_values, text_embeds=text_embeds[order]).logits
    torch.testing.assert_close(reordered, logits[:, order], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_large_vocabulary_refines_the_labels_that_matter(segmenter, pixel_values, text_embeds):
    everything = segmenter(pixel_values, text_embeds=text_embeds).logits
    segmenter.segmenter.max_refined_labels = 2
    pruned = segmenter(pixel_values, text_embeds=text_embeds).logits
    assert pruned.shape == everything.shape
    winners = [set(image.argmax(0).flatten().tolist()) for image in pruned]
    assert all(len(won) <= 2 for won in winners)
    similarities = segmenter.pat.extract_features(pixel_values).dense_embeds @ text_embeds.T
    if segmenter.segmenter.guidance.residual is None:
        best = similarities.amax(dim=(1, 2)).topk(2).indices
        assert all(won <= set(row.tolist()) for won, row in zip(winners, best, strict=True))


def many_words(number: int) -> torch.Tensor:
    return F.normalize(torch.randn(number, PROJECTION_DIM, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.mark.parametrize("label", [255, 256, 300, 846])
def test_ids_above_255(segmenter, pixel_values, label):
    """847-class sets exist; 255 is a class there, and 65535 is ignored."""
    segmenter.config.semantic_loss_ignore_index = 65535
    labels = torch.full(pixel_values[:, 0].shape, label)
    labels[:, 24:] = 65535
    output = segmenter(pixel_values, text_embeds=many_words(847), labels=labels)
    log_probabilities = F.interpolate(output.logits, scale_factor=2, mode="bilinear").log_softmax(1)
    expected = -log_probabilities[:, label, :12].mean()  # 24 of 40 pixels are 12 of 20 rows
    torch.testing.assert_close(output.segmentation_loss, expected)


def test_ignored_pixels_do_not_count(segmenter, pixel_values, text_embeds, labels):
    loss = segmenter(pixel_values, text_embeds=text_embeds, labels=labels).segmentation_loss
    halved = labels.clone()
    halved[:, :, :24] = 255
    other = segmenter(pixel_values, text_embeds=text_embeds, labels=halved).segmentation_loss
    assert not torch.isclose(loss, other)
    nothing = segmenter(pixel_values, text_embeds=text_embeds, labels=torch.full_like(labels, 255))
    assert nothing.segmentation_loss == 0 and torch.isfinite(nothing.loss)


def test_a_class_counts_by_the_square_root_of_its_pixels(segmenter, pixel_values, text_embeds, labels):
    labels[:], labels[:, :4, :10] = 0, 1  # the loss is taken at half the photo's size
    output = segmenter(pixel_values, text_embeds=text_embeds, labels=labels)
    losses = -F.interpolate(output.logits, scale_factor=2, mode="bilinear").log_softmax(1)
    truth = labels[:, ::2, ::2]
    common, rare = (losses[:, label][truth == label].view(len(labels), -1) for label in (0, 1))
    roots = [part.shape[1] ** 0.5 for part in (common, rare)]
    expected = (roots[0] * common.mean(1) + roots[1] * rare.mean(1)) / sum(roots)
    torch.testing.assert_close(output.segmentation_loss, expected.mean())


def test_text_is_encoded_once_per_label_and_template(segmenter, processor, monkeypatch):
    encoded = []
    encode_text = segmenter.encode_text
    monkeypatch.setattr(segmenter, "encode_text", lambda **inputs: encoded.append(1) or encode_text(**inputs))
    first = segmenter.get_text_embeds(["road", "tree;bush"], processor)
    again = segmenter.get_text_embeds(["tree;bush", "road"], processor)
    assert len(encoded) == 1
    assert torch.equal(first[[1, 0]], again)
    other = segmenter.get_text_embeds(["road"], processor, templates=["an etching of a {}"])
    assert len(encoded) == 2
    assert not torch.allclose(other, first[:1])
    segmenter.get_text_embeds(["road", "sky"], processor)
    assert len(encoded) == 3


def test_text_embeddings_do_not_depend_on_company(segmenter, processor):
    together = segmenter.get_text_embeds(["road", "a much longer label", "tree;bush"], processor, "vild")
    assert together.shape == (3, PROJECTION_DIM)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))
    segmenter.text_cache.clear()
    segmenter.text_batch_size = 2
    alone = segmenter.get_text_embeds(["road"], processor, "vild")
    torch.testing.assert_close(alone[0], together[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_input_ids_and_text_embeds_agree(segmenter, processor, pixel_values):
    labels = ["road", "tree;bush", "car"]
    inputs = processor(text=labels, return_tensors="pt")
    by_ids = segmenter(pixel_values, **inputs).logits
    by_embeds = segmenter(pixel_values, text_embeds=segmenter.get_text_embeds(labels, processor)).logits
    torch.testing.assert_close(by_ids, by_embeds)


@torch.no_grad()
def test_vocabulary_is_saved(segmenter, processor, pixel_values, tmp_path):
    labels = ["road", "tree;bush", "car"]
    segmenter.set_vocabulary(labels, processor)
    expected = segmenter(pixel_values).logits
    assert torch.equal(
        expected, segmenter(pixel_values, text_embeds=segmenter.get_text_embeds(labels, processor)).logits
    )
    segmenter.save_pretrained(tmp_path)
    loaded = PatForSemanticSegmentation.from_pretrained(tmp_path)
    assert loaded.config.id2label == {0: "road", 1: "tree", 2: "car"}
    assert loaded.config.label2id == {"road": 0, "tree": 1, "car": 2}
    assert torch.equal(loaded(pixel_values).logits, expected)
    loaded.set_vocabulary(["sky"], processor)
    assert loaded(pixel_values).logits.shape[1] == loaded.config.num_labels == 1
    assert torch.equal(
        PatModel.from_pretrained(tmp_path).encode(pixel_values).codes[0], segmenter.pat.encode(pixel_values).codes[0]
    )


def test_another_clip_brings_its_own_words(segmenter, processor):
    before = segmenter.get_text_embeds(["cat"], processor)
    segmenter.load_clip(make_clip(seed=1))
    assert not torch.allclose(segmenter.get_text_embeds(["cat"], processor), before)


# Levels, outputs, codes as users store them


@pytest.mark.parametrize("strides", [[2], [1], [2, 1], [0.5]])
@pytest.mark.parametrize("size", [(32, 48), (40, 48), (33, 20)])
def test_any_levels_train_and_segment_from_codes(make_segmenter, text_embeds, strides, size):
    levels = len(strides)
    fields = {"level_strides": strides, "codebook_sizes": [8] * levels, "feature_layers": [[2]] * levels}
    model, pixel_values = make_segmenter(**fields), random_images(2, *size)
    labels = torch.randint(0, NUM_WORDS, (2, *size))
    output = train_steps(model, 2, pixel_values=pixel_values, text_embeds=text_embeds, labels=labels)
    assert torch.isfinite(output.loss)
    model.eval()
    with torch.no_grad():
        output = model(pixel_values, text_embeds=text_embeds)
        logits = model.segment_codes(output.codes, text_embeds, output_size=size)
        assert logits.shape == output.logits.shape
        assert model.pat.decode(output.codes, output_size=size).shape == pixel_values.shape
        patches = model.pat.get_patch_embeds(output.codes, output_size=size)
    assert patches.shape[1:3] == tuple(-(-side // PATCH_SIZE) for side in size)


@torch.no_grad()
def test_tuples_by_configuration_reach_windows_and_mixed_sizes(segmenter, text_embeds):
    images = [random_images(1, 40, 48), random_images(1, 32, 40)]
    padded, mask = pad_together(images)
    mixed = segmenter(padded, text_embeds=text_embeds, pixel_mask=mask).logits
    windows = segmenter.segment_windows(images[0], 32, 16, text_embeds).logits
    segmenter.config.return_dict = segmenter.pat.config.return_dict = False
    assert torch.equal(segmenter(padded, text_embeds=text_embeds, pixel_mask=mask)[0], mixed)
    assert torch.equal(segmenter.segment_windows(images[0], 32, 16, text_embeds).logits, windows)


@torch.no_grad()
def test_hidden_states_and_attentions_are_those_of_clip(segmenter, pixel_values, text_embeds):
    segmenter.set_attn_implementation("eager")
    images = pixel_values[..., :32, :32]
    output = segmenter(images, text_embeds=text_embeds, output_hidden_states=True, output_attentions=True)
    tower = segmenter.pat.vision_model
    expected = tower(images, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == len(expected.hidden_states) == segmenter.config.num_hidden_layers + 1
    for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)
    # The last block attends by queries to queries.
    assert len(output.attentions) == len(expected.attentions)
    for ours, theirs in zip(output.attentions[:-1], expected.attentions[:-1], strict=True):
        torch.testing.assert_close(ours, theirs)
    chosen = segmenter.pat(images, output_hidden_states=[1, -1]).hidden_states
    assert [state is not None for state in chosen] == [False, True, False, False, True]
    plain = segmenter(images, text_embeds=text_embeds)
    assert plain.hidden_states is None and plain.attentions is None
    assert torch.equal(plain.logits, output.logits)


@torch.no_grad()
@pytest.mark.parametrize("store", [lambda x: x.numpy(), lambda x: x.numpy().astype("uint16"), torch.Tensor.tolist])
def test_stored_codes_decode(tokenizer_model, pixel_values, store):
    encoded = tokenizer_model.encode(pixel_values)
    expected = tokenizer_model.decode(encoded.codes)
    assert torch.equal(tokenizer_model.decode(encoded), expected)
    stored = [store(level) for level in encoded.codes]
    assert torch.equal(tokenizer_model.decode(stored), expected)
    assert torch.equal(tokenizer_model.decode([level.to(torch.uint16) for level in encoded.codes]), expected)


def test_learned_background_takes_what_fits_no_word(make_segmenter, pixel_values, text_embeds, labels):
    model = make_segmenter()
    with torch.no_grad():
        untrained = model(pixel_values, text_embeds=model.add_background(text_embeds)).logits
    assert untrained.shape[1] == NUM_WORDS + 1 and not untrained[:, -1].any()  # no similarity, no correction
    outside = labels.clone()
    outside[:, : labels.shape[1] // 2] = NUM_WORDS
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(30):
        with_background = model.add_background(text_embeds)
        loss = model(pixel_values, text_embeds=with_background, labels=outside).segmentation_loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.segmenter.background_embed.any()
    with torch.no_grad():
        won = model.eval()(pixel_values, text_embeds=model.add_background(text_embeds)).logits.argmax(1) == NUM_WORDS
    assert won.any()
