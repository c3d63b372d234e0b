"""The image processors through their public interface: photos, label maps, post-processing."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoImageProcessor
from transformers.utils import is_torchvision_available

from transformers_pat.image_processing_pat import PatImageProcessor
from transformers_pat.image_processing_pil_pat import PatImageProcessorPil
from transformers_pat.postprocessing_pat import segment

from ..support.tiny import photo

needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="torchvision is not installed")


@pytest.fixture(params=[PatImageProcessorPil, pytest.param(PatImageProcessor, marks=needs_torchvision)])
def processor_class(request):
    return request.param


@pytest.fixture
def processor(processor_class):
    return processor_class()


def shape_of(processor, image, **kwargs):
    return tuple(processor(image, return_tensors="pt", **kwargs).pixel_values.shape[-2:])


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (300, 400, (448, 592)),  # 597.3 rounds to 37 sixteens
        (448, 448, (448, 448)),
        (1, 2000, (16, 1344)),
        (2000, 1, (1344, 16)),
        (1, 1, (448, 448)),
        (200, 1000, (272, 1344)),  # the cap wins: 268.8 rounds to 17 sixteens
    ],
)
def test_aspect_keeping_sizes(processor, height, width, expected):
    assert shape_of(processor, Image.new("RGB", (width, height))) == expected


def test_cap_holds_when_it_is_no_multiple(processor):
    assert shape_of(processor, photo(100, 400), size={"shortest_edge": 500, "longest_edge": 620}) == (160, 608)


def test_other_sizes(processor):
    image = photo(100, 200)
    assert shape_of(processor, image, size={"height": 50, "width": 60}) == (50, 60)
    assert shape_of(processor, image, size=64) == (64, 128)
    assert shape_of(processor, image, size={"longest_edge": 96}) == (48, 96)
    assert shape_of(processor, image, do_resize=False) == (100, 200)
    with pytest.raises(ValueError, match="size must have height and width"):
        processor(image, size={"max_height": 10, "max_width": 10})


@pytest.mark.parametrize(
    "fields", [{"size_divisor": 0}, {"size": {"shortest_edge": -5}}, {"size": {"height": -5, "width": 4}}]
)
def test_sizes_are_positive(processor, fields):
    with pytest.raises(ValueError, match="size and size_divisor must be positive"):
        processor(photo(), **fields)


@pytest.mark.parametrize("do_resize", [True, False])
def test_nan_is_refused(processor, do_resize):
    image = np.full((32, 32, 3), 0.5, dtype=np.float32)
    image[3, 4] = np.nan
    with pytest.raises(ValueError, match="an image holds NaN"):
        processor(image, do_rescale=False, do_resize=do_resize)


def test_values_are_clips(processor):
    pixels = processor(Image.new("RGB", (32, 32), (255, 0, 128)), return_tensors="pt").pixel_values
    expected = (torch.tensor([1, 0, 128 / 255]) - torch.tensor(processor.image_mean)) / torch.tensor(
        processor.image_std
    )
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0, :, 5, 5], expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "PA", "I", "F"])
def test_any_mode(processor, mode):
    image = photo().convert("P").convert("PA") if mode == "PA" else photo().convert(mode)
    pixels = processor(image, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 448, 592)
    assert pixels.isfinite().all()


@pytest.mark.parametrize("kind", ["pil", "numpy", "torch"])
def test_16_bit_photos_keep_their_tones(processor, kind):
    grey = np.array(photo().convert("L"))
    deep = grey.astype(np.uint16) * 257
    deep = {"pil": Image.fromarray, "numpy": np.array, "torch": torch.from_numpy}[kind](deep)
    expected = processor(Image.fromarray(grey), return_tensors="pt").pixel_values
    torch.testing.assert_close(processor(deep, return_tensors="pt").pixel_values, expected)


def test_transparency_is_white(processor):
    clear = processor(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), return_tensors="pt").pixel_values
    torch.testing.assert_close(clear, processor(Image.new("RGB", (64, 64), "white"), return_tensors="pt").pixel_values)


def test_exif_orientation(processor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    photo(64, 128).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    upright = photo(64, 128).rotate(-90, expand=True)
    expected = processor(upright, return_tensors="pt").pixel_values
    torch.testing.assert_close(processor(turned, return_tensors="pt").pixel_values, expected)
    torch.testing.assert_close(processor(str(tmp_path / "turned.png"), return_tensors="pt").pixel_values, expected)
    labels = processor(turned, segmentation_maps=np.zeros((128, 64), int), return_tensors="pt").labels
    assert labels.shape[-2:] == expected.shape[-2:]


def test_pil_numpy_and_torch_agree(processor):
    image = photo()
    array = np.array(image)
    expected = processor(image, return_tensors="pt").pixel_values
    for other in (array, array.transpose(2, 0, 1), torch.from_numpy(array), torch.from_numpy(array)[None]):
        torch.testing.assert_close(processor(other, return_tensors="pt").pixel_values, expected)
    many = processor([image, image], return_tensors="pt").pixel_values
    torch.testing.assert_close(many, expected.repeat(2, 1, 1, 1))
    assert isinstance(processor(image, return_tensors="np").pixel_values, np.ndarray)


def test_mixed_shapes_are_padded(processor):
    images = [photo(64, 128), photo(128, 64), photo(100, 100)]
    batch = processor(images, return_tensors="pt", size={"shortest_edge": 64, "longest_edge": 128})
    assert batch.pixel_values.shape == (3, 3, 128, 128)
    assert batch.pixel_mask.dtype == torch.int64
    assert [tuple((mask.any(1).sum().item(), mask.any(0).sum().item())) for mask in batch.pixel_mask] == [
        (64, 128),
        (128, 64),
        (64, 64),
    ]
    alone = processor(images[0], return_tensors="pt", size={"shortest_edge": 64, "longest_edge": 128})
    torch.testing.assert_close(batch.pixel_values[:1, :, :64], alone.pixel_values)
    assert (batch.pixel_values[0, :, 64:] == 0).all()


def test_no_mask_without_padding(processor):
    assert "pixel_mask" not in processor([photo(), photo(seed=1)], return_tensors="pt")
    assert set(processor(photo())) == {"pixel_values"}


@pytest.mark.parametrize("kind", ["uint16", "int32", "int64", "torch", "pil", "lists", "channel"])
def test_label_maps_of_any_kind(processor, kind):
    ids = np.random.default_rng(0).integers(0, 65536, (6, 8))
    if kind == "pil":
        given = Image.fromarray(ids.astype(np.uint16))
    elif kind == "torch":
        given = torch.from_numpy(ids)
    elif kind == "lists":
        given = ids.tolist()
    elif kind == "channel":
        given = ids[None]
    else:
        given = ids.astype(kind)
    before = copy.deepcopy(given)
    labels = processor(photo(6, 8), given, size={"height": 12, "width": 16}, return_tensors="pt").labels
    assert labels.dtype == torch.int64
    assert np.array_equal(labels[0], ids.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(np.asarray(given), np.asarray(before))


def test_palette_and_bilevel_maps(processor):
    palette = Image.fromarray(np.array([[0, 7], [9, 255]], dtype=np.uint8)).convert("P")
    palette = Image.frombytes("P", (2, 2), bytes([0, 7, 9, 255]))
    labels = processor(photo(2, 2), palette, do_resize=False, return_tensors="pt").labels
    assert labels.tolist() == [[[0, 7], [9, 255]]]
    labels = processor(photo(2, 2), Image.new("1", (2, 2), 1), do_resize=False, return_tensors="pt").labels
    assert labels.tolist() == [[[1, 1], [1, 1]]]


def test_label_maps_are_padded_with_ignore_index(processor):
    images, maps = [photo(64, 128), photo(128, 64)], [np.full((64, 128), 3), np.full((128, 64), 65534)]
    size = {"shortest_edge": 64}
    labels = processor(images, maps, size=size, return_tensors="pt").labels
    assert labels.shape == (2, 128, 128)
    assert labels[0].unique().tolist() == [3, 255]
    assert labels[1].unique().tolist() == [255, 65534]
    labels = processor(images, maps, size=size, ignore_index=65535, return_tensors="pt").labels
    assert (labels[0, 64:] == 65535).all()
    kept = processor(images[0], np.full((64, 128), -100), size=size, ignore_index=-100, return_tensors="pt").labels
    assert kept.unique().tolist() == [-100]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((5, 6), int), r"5x6 .* 96x128"),
        ([np.zeros((96, 128), int)] * 2, "2 segmentation maps for 1 images"),
        (np.full((96, 128), 0.5), "whole numbers"),
        (np.full((96, 128), -3), "negative id -3"),
        (Image.new("RGB", (128, 96)), "one id per pixel"),
    ],
)
def test_wrong_label_maps(processor, maps, message):
    with pytest.raises(ValueError, match=message):
        processor(photo(96, 128), maps)


def test_wrong_photos(processor, tmp_path):
    photo().save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-300])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    for name in ("cut.jpg", "empty.png", "text.jpg", "missing.jpg"):
        with pytest.raises(ValueError, match=rf"^cannot read the image .*{name}: [^\n]*$"):
            processor(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"cannot read the image .*cut.jpg"):
        processor(Image.open(tmp_path / "cut.jpg"))
    with pytest.raises(ValueError, match="empty"):
        processor([])
    with pytest.raises(ValueError, match="got int"):
        processor([3])
    with pytest.raises(ValueError, match="does not crop"):
        processor(photo(), do_center_crop=True, crop_size=10)


def test_unknown_keyword_is_refused(processor):
    with pytest.raises(Exception, match="sizes"):
        processor(photo(), sizes=3)


def test_save_and_load(processor_class, tmp_path):
    processor = processor_class(size={"shortest_edge": 64}, size_divisor=8, ignore_index=65535)
    processor.save_pretrained(tmp_path)
    loaded = processor_class.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.size_divisor, loaded.ignore_index, dict(loaded.size)) == (8, 65535, {"shortest_edge": 64})
    assert AutoImageProcessor.from_pretrained(tmp_path, backend=processor.backend).to_dict() == processor.to_dict()


@needs_torchvision
def test_backends_agree():
    batches = [
        cls()([photo(), photo(300, 200)], [np.arange(96 * 128).reshape(96, 128), np.zeros((300, 200), int)])
        for cls in (PatImageProcessor, PatImageProcessorPil)
    ]
    for fast, pil in zip(*(batch["pixel_values"] for batch in batches), strict=True):
        difference = (torch.as_tensor(fast) - torch.as_tensor(pil)).abs()
        assert difference.max() < 0.1  # a few of 255 steps
        assert difference.mean() < 0.005
    assert np.array_equal(batches[0]["labels"], batches[1]["labels"])
    assert np.array_equal(np.stack(batches[0]["pixel_mask"]), np.stack(batches[1]["pixel_mask"]))


# Post-processing


def naive(logits, size):
    resized = F.interpolate(logits[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    return resized.argmax(dim=0), resized.softmax(dim=0).amax(dim=0)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((20, 30, 41), (481, 333)),
        ((300, 64, 64), (16, 16)),
        ((33, 28, 37), (448, 592)),
        ((7, 1, 126), (1, 2000)),
        ((5, 1, 1), (7, 9)),
        ((1, 4, 4), (9, 9)),
        ((3, 4, 4), (1, 1)),
        ((150, 12, 17), (300, 301)),
        ((9, 200, 210), (640, 700)),
    ],
)
@pytest.mark.parametrize("scale", [1, 30])
def test_segment_is_the_naive_result(shape, size, scale):
    torch.manual_seed(0)
    logits = torch.randn(shape) * scale
    labels, scores = naive(logits, size)
    found, found_scores = segment(logits, size, with_scores=True)
    assert found.dtype == torch.int64
    assert torch.equal(found, labels)
    quick, no_scores = segment(logits, size)
    assert torch.equal(quick, labels) and no_scores is None
    torch.testing.assert_close(found_scores, scores, rtol=2e-5 * scale, atol=1e-5 * scale)


def test_ties_go_to_the_first_label():
    torch.manual_seed(0)
    logits = torch.randint(-2, 2, (50, 9, 9)).float()
    for size in [(9, 9), (72, 144)]:  # scales of powers of two: the ties stay exact
        assert torch.equal(segment(logits, size)[0], naive(logits, size)[0])
    assert (segment(torch.zeros(2000, 3, 3), (300, 300))[0] == 0).all()
    twice = torch.cat([logits, logits])
    assert segment(twice, (95, 61))[0].max() < 50


def test_smooth_maps_of_many_labels():
    """Where few labels can win, the others are never resized; the result must not show it."""
    torch.manual_seed(0)
    logits = F.interpolate(torch.randn(1, 847, 4, 5) * 5, size=(28, 37), mode="bicubic")[0]
    labels, scores = naive(logits, (224, 296))
    found, found_scores = segment(logits, (224, 296), with_scores=True)
    assert torch.equal(found, labels)
    torch.testing.assert_close(found_scores, scores, rtol=1e-4, atol=1e-5)


def test_half_precision_logits():
    logits = torch.randn(6, 8, 8).bfloat16()
    assert torch.equal(segment(logits, (32, 32))[0], naive(logits, (32, 32))[0])


def test_post_process(processor):
    outputs = SimpleNamespace(logits=torch.randn(2, 5, 8, 9))
    maps = processor.post_process_semantic_segmentation(outputs)
    assert torch.equal(torch.stack(maps), outputs.logits.argmax(dim=1))
    maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[(20, 30), (7, 5)])
    assert [tuple(one.shape) for one in maps] == [(20, 30), (7, 5)]
    maps = processor.post_process_semantic_segmentation(outputs, target_sizes=torch.tensor([[20, 30], [7, 5]]))
    assert [tuple(one.shape) for one in maps] == [(20, 30), (7, 5)]
    results = processor.post_process_semantic_segmentation(
        outputs, [(20, 30), (7, 5)], return_segmentation_scores=True
    )
    for result, one in zip(results, maps, strict=True):
        assert torch.equal(result.segmentation, one)
        assert torch.equal(result.segmentation_scores.argmax(dim=0), one)
        assert result.segmentation_scores.shape == (5, *one.shape)


def test_post_process_leaves_out_padding(processor):
    logits = torch.randn(2, 4, 6, 6)
    outputs = SimpleNamespace(logits=logits, logits_sizes=torch.tensor([[6, 3], [2, 6]]))
    maps = processor.post_process_semantic_segmentation(outputs)
    assert torch.equal(maps[0], logits[0, :, :, :3].argmax(dim=0))
    assert maps[1].shape == (2, 6)
    maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[(1, 1), (20, 60)])
    assert maps[0].shape == (1, 1)
    assert torch.equal(maps[1], naive(logits[1, :, :2], (20, 60))[0])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(4, 4)], "1 target sizes for a batch of 2"),
        ([(4, 4), (0, 4)], "at least 1"),
        ([(4, 4), (4,)], "height, width"),
    ],
)
def test_wrong_target_sizes(processor, sizes, message):
    with pytest.raises(ValueError, match=message):
        processor.post_process_semantic_segmentation(SimpleNamespace(logits=torch.randn(2, 3, 4, 4)), sizes)


def test_outputs_without_logits(processor):
    with pytest.raises(ValueError, match=r"outputs\.logits"):
        processor.post_process_semantic_segmentation(SimpleNamespace(logits=None))
