"""Bad input to the models: each is refused with one line that says what is wrong."""

import pytest
import torch

from ..support.tiny import NUM_WORDS, PROJECTION_DIM, make_clip, make_tokenizer, random_images


def assert_one_line(error) -> None:
    message = str(error.value)
    assert "\n" not in message and 20 < len(message) < 300, message


@pytest.fixture
def refuses(segmenter, pixel_values, text_embeds):
    """Function that calls the segmenter with some inputs replaced (None: left out) and expects a ValueError."""

    def check(match, **changed):
        inputs = {"pixel_values": pixel_values, "text_embeds": text_embeds, **changed}
        with pytest.raises(ValueError, match=match) as error:
            segmenter(**{name: value for name, value in inputs.items() if value is not None})
        assert_one_line(error)

    return check


@pytest.mark.parametrize("shape", [(3, 40, 48), (2, 1, 40, 48), (2, 4, 40, 48), (0, 3, 40, 48), (2, 3, 0, 48)])
def test_pixel_values_of_the_wrong_shape(refuses, shape):
    refuses("pixel_values must be", pixel_values=torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 20, 24), (2, 40, 48), (3, 1, 40, 48), (40, 48)])
def test_labels_of_another_size(refuses, shape):
    refuses("labels must be", labels=torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(3, 20, 24), (2, 40, 48)])
def test_pixel_mask_of_another_size(refuses, shape):
    refuses("pixel_mask must be", pixel_mask=torch.zeros(shape, dtype=torch.long))


def test_pixel_mask_of_an_empty_image(refuses, pixel_values):
    mask = torch.ones_like(pixel_values[:, 0], dtype=torch.long)
    mask[1] = 0
    refuses("pixel_mask", pixel_mask=mask)


@pytest.mark.parametrize("wrong", [-1, NUM_WORDS, 254])
def test_label_ids_out_of_range(refuses, labels, wrong):
    labels = labels.clone()
    labels[0, 20, 20] = wrong
    refuses("labels hold ids from", labels=labels)


def test_ignore_index_that_is_a_class(refuses, labels):
    refuses("also one of the 300 classes", labels=labels, text_embeds=torch.randn(300, PROJECTION_DIM))


def test_no_words(refuses):
    refuses("No words to segment by", text_embeds=None)


@pytest.mark.parametrize(
    "shape", [(5, PROJECTION_DIM + 1), (PROJECTION_DIM,), (1, 5, PROJECTION_DIM), (0, PROJECTION_DIM)]
)
def test_text_embeds_of_another_model(refuses, shape):
    refuses("text_embeds must be", text_embeds=torch.randn(shape))


def test_tokens_of_another_tokenizer(refuses):
    vocab_size = len(make_tokenizer())
    refuses("not from this model's tokenizer", input_ids=torch.full((1, 5), vocab_size))
    refuses("not from this model's tokenizer", input_ids=torch.ones(1, 5, dtype=torch.long))  # no end of text
    refuses("not from this model's tokenizer", input_ids=torch.full((1, 5), -1))


def test_more_tokens_than_positions(refuses):
    refuses("77", input_ids=torch.full((1, 78), make_tokenizer().eos_token_id))


@pytest.fixture
def codes(tokenizer_model, pixel_values):
    return tokenizer_model.encode(pixel_values).codes


def refuse_to_decode(segmenter, text_embeds, codes, match, **kwargs):
    with pytest.raises(ValueError, match=match) as error:
        segmenter.pat.decode(codes, **kwargs)
    assert_one_line(error)
    if not kwargs:
        with pytest.raises(ValueError, match=match):
            segmenter.segment_codes(codes, text_embeds)


@pytest.mark.parametrize("wrong", [-1, 8])
def test_codes_out_of_range(segmenter, text_embeds, codes, wrong):
    refuse_to_decode(
        segmenter, text_embeds, (torch.full_like(codes[0], wrong), *codes[1:]), "level 0 must lie in 0..7"
    )


def test_wrong_number_of_levels(segmenter, text_embeds, codes):
    refuse_to_decode(segmenter, text_embeds, (), "1 to 3 levels")
    refuse_to_decode(segmenter, text_embeds, (*codes, codes[-1]), "1 to 3 levels")
    for num_levels in (0, 4, -1):
        refuse_to_decode(segmenter, text_embeds, codes, "1 to 3 levels", num_levels=num_levels)


def test_levels_that_do_not_fit_together(segmenter, text_embeds, codes):
    refuse_to_decode(segmenter, text_embeds, (codes[0][:, :2], *codes[1:]), "Codes of level 0 should be")
    refuse_to_decode(segmenter, text_embeds, (codes[0][:1], *codes[1:]), "Codes of level [01] should be")
    refuse_to_decode(segmenter, text_embeds, codes[::-1], "Codes of level 0 ")


def test_output_size_of_another_image(segmenter, text_embeds, codes):
    refuse_to_decode(segmenter, text_embeds, codes, "output_size", output_size=(80, 96))
    with pytest.raises(ValueError, match="output_size"):
        segmenter.segment_codes(codes, text_embeds, output_size=(20, 24))


def test_codes_that_are_no_grid(segmenter, text_embeds, codes):
    refuse_to_decode(segmenter, text_embeds, tuple(level.flatten() for level in codes), "Codes of each level must be")
    refuse_to_decode(segmenter, text_embeds, tuple(level[:, :0] for level in codes), "none of them 0")


def test_codes_that_are_no_integers(segmenter, text_embeds, codes):
    refuse_to_decode(segmenter, text_embeds, tuple(level.float() for level in codes), "integers")


@pytest.mark.parametrize(("window_size", "stride"), [(30, 16), (32, 15), (16, 32), (32, 0), (0, 0), (32, -8)])
def test_windows_that_leave_gaps(segmenter, text_embeds, window_size, stride):
    with pytest.raises(ValueError, match="multiples of the patch size") as error:
        segmenter.segment_windows(random_images(1, 64, 64), window_size, stride, text_embeds)
    assert_one_line(error)


def test_text_tower_of_another_clip(segmenter, tmp_path):
    other = make_clip(text={"hidden_size": 48})
    with pytest.raises(ValueError, match="This CLIP doesn't fit") as error:
        segmenter.load_clip(other)
    assert_one_line(error)


@pytest.mark.parametrize(
    ("wrong", "closest"), [("text_embed", "text_embeds"), ("label", "labels"), ("pixels_mask", "pixel_mask")]
)
def test_misspelt_keywords(segmenter, pixel_values, text_embeds, wrong, closest):
    with pytest.raises(TypeError, match=f"{wrong!r}: did you mean {closest!r}") as error:
        segmenter(pixel_values, text_embeds=text_embeds, **{wrong: text_embeds})
    assert_one_line(error)


def test_the_tokenizer_takes_no_words(segmenter, pixel_values, text_embeds):
    with pytest.raises(TypeError, match="unknown argument 'text_embeds': it takes pixel_values") as error:
        segmenter.pat(pixel_values, text_embeds=text_embeds)
    assert_one_line(error)


@torch.no_grad()
def test_keywords_that_transformers_passes(segmenter, pixel_values, text_embeds):
    general = {"num_items_in_batch": torch.tensor(3), "output_attentions": False, "output_hidden_states": False}
    output = segmenter(pixel_values, text_embeds=text_embeds, return_dict=True, **general)
    assert torch.equal(output.logits, segmenter(pixel_values, text_embeds=text_embeds).logits)


def test_codes_of_ragged_lists(segmenter, text_embeds, codes):
    ragged = [[[1, 2], [3]]]
    refuse_to_decode(segmenter, text_embeds, (ragged, *codes[1:]), "level 0 must be a rectangular grid")
