import numpy as np
import pytest
from PIL import Image, ImageFont

from transformers_pat.colors import label_colors, palette
from transformers_pat.visualization import (
    FONTS,
    colorize,
    contact_sheet,
    format_share,
    overlay,
    reconstruction_sheet,
)


def random_map(height, width, num_labels):
    return np.random.default_rng(0).integers(0, num_labels, (height, width))


def test_palette_is_fixed_and_separated():
    colors = palette(847)
    assert colors.shape == (847, 3) and colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == 847
    assert (palette(20) == colors[:20]).all()
    first = colors[:24].astype(int)
    distances = np.abs(first[:, None] - first[None]).sum(-1) + 999 * np.eye(24, dtype=int)
    assert distances.min() > 30
    assert palette(70000).shape == (70000, 3)
    with pytest.raises(ValueError, match="at least one"):
        palette(0)


def test_a_word_keeps_its_colour_unless_it_is_like_an_earlier_ones():
    words = [f"word {index}" for index in range(60)]
    alone = {word: tuple(label_colors([word])[0]) for word in words}
    assert len(set(alone.values())) > 15
    assert alone["word 0"] == tuple(label_colors([" Word 0", "sky"])[0])
    for start in range(0, 60, 4):
        group = words[start : start + 4]
        colors = label_colors(group).astype(int)
        assert tuple(colors[0]) == alone[group[0]]
        distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
        assert distances[~np.eye(4, dtype=bool)].min() > 40
    many = label_colors(words)
    assert len(np.unique(many, axis=0)) == 60 and (many[24:] == palette(60)[24:]).all()
    assert label_colors([]).shape == (0, 3)


def test_few_labels_are_told_apart_by_colour_blind_eyes():
    # scikit-image's conversion, as a second opinion; Vienot's matrix for deuteranopes, linear RGB.
    from skimage.color import rgb2lab

    vienot = np.array([(0.29275, 0.70725, 0), (0.29275, 0.70725, 0), (-0.02234, 0.02234, 1)])
    for names in (["sky", "tree", "building", "water"], ["cat", "dog", "person", "car"]):
        linear = (label_colors(names) / 255.0) ** 2.2
        seen = rgb2lab(np.clip(linear @ vienot.T, 0, 1)[None] ** (1 / 2.2))[0]
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert distances[~np.eye(4, dtype=bool)].min() > 10, names


def test_names_are_written_on_their_regions_where_there_is_room():
    ids = np.zeros((300, 400), int)
    ids[100:250, 50:350] = 1
    ids[:3, :3] = 2
    with_names, without = (
        np.asarray(overlay(Image.new("RGB", (400, 300)), ids, names)) for names in (["a", "road", "b"], ["", "", ""])
    )
    changed = np.argwhere((with_names[:300] != without[:300]).any(-1) & (ids == 1))
    assert len(changed) and np.abs(changed.mean(0) - (175, 200)).max() < 15


def test_colorize_takes_ids_above_255():
    ids = random_map(20, 30, 1000)
    picture = colorize(ids, 1000)
    assert picture.size == (30, 20)
    assert (np.asarray(picture) == palette(1000)[ids]).all()


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros((1, 2, 2), int), np.full((2, 2), 3), np.full((2, 2), -1)])
def test_bad_maps_are_refused(bad):
    with pytest.raises(ValueError, match="label map"):
        colorize(bad, 3)


@pytest.mark.parametrize("size", [(640, 427), (1, 500), (500, 1), (30, 20), (2400, 1800)])
def test_overlay_keeps_the_photo_and_adds_a_legend(size):
    ids = np.zeros(size[::-1], int)
    ids[: size[1] // 2] = 1
    picture = overlay(Image.new("RGB", size, "white"), ids, ["road", "sky " * 60])
    assert picture.width == max(320, size[0]) and picture.height > size[1] + 10
    legend = np.asarray(picture)[size[1] :]
    assert (legend == label_colors(["road"])[0]).all(-1).any()


def test_overlay_opacity():
    photo, ids = Image.new("RGB", (64, 64), (10, 20, 30)), np.ones((64, 64), int)
    assert np.asarray(overlay(photo, ids, ["a", "b"], opacity=0))[5, 5].tolist() == [10, 20, 30]
    assert (
        np.asarray(overlay(photo, ids, ["a", "b"], opacity=1))[5, 5].tolist() == label_colors(["a", "b"])[1].tolist()
    )
    with pytest.raises(ValueError, match="opacity"):
        overlay(photo, ids, ["a", "b"], opacity=2)
    with pytest.raises(ValueError, match="64x64"):
        overlay(photo, ids[:32], ["a", "b"])


def test_overlay_limits_the_legend():
    photo, names = Image.new("RGB", (400, 300)), [f"label {index}" for index in range(500)]
    many = overlay(photo, random_map(300, 400, 500), names)
    assert many.height < 3 * photo.height


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_overlay_takes_any_mode(mode):
    assert overlay(Image.new(mode, (40, 30)), np.zeros((30, 40), int), ["a"]).mode == "RGB"


def test_reconstruction_sheet():
    photo = Image.new("RGB", (200, 100), "red")
    sheet = reconstruction_sheet(photo, [photo.resize((20, 10))] * 3)
    assert sheet.width > 400 and sheet.height > 200
    one = reconstruction_sheet(Image.new("L", (1, 1)), [photo], ["caption " * 20])
    assert one.width >= 160
    with pytest.raises(ValueError, match="captions"):
        reconstruction_sheet(photo, [])


def test_format_share():
    assert [format_share(share) for share in (0.001, 0.01, 0.123, 1)] == ["< 1 %", "1 %", "12 %", "100 %"]


def test_a_contact_sheet_shows_every_picture():
    red, blue, green = (
        Image.new("RGB", size, color) for size, color in (((40, 30), "red"), ((50, 20), "blue"), ((20, 60), "lime"))
    )
    sheet = np.asarray(contact_sheet([("first", [red, blue]), ("a very long caption " * 20, [green])]))
    for picture in (red, blue, green):
        assert (sheet == np.asarray(picture)[0, 0]).all(-1).sum() == picture.width * picture.height
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([])


def test_letters_beyond_ascii_are_no_boxes():
    def legend(name):
        return np.asarray(overlay(Image.new("RGB", (400, 40)), np.zeros((40, 400), int), [name]))

    if not any(map(is_installed, FONTS)):
        pytest.skip("no font with these letters")
    assert (legend("ñ") != legend("ü")).any()


def is_installed(font):
    try:
        return bool(ImageFont.truetype(font))
    except OSError:
        return False
