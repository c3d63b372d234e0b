"""Pictures of results: coloured label maps, overlays with a legend, reconstructions side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colors import label_colors, palette
from .image_io_pat import to_rgb
from .prompts_pat import BACKGROUND

NARROWEST_CANVAS = 320
MOST_LEGEND_ENTRIES = 30
SHEET_ASPECT = 1.6
# Places of names are looked for on a grid with this many cells on its long side.
NAME_GRID = 128
# Pillow's own font has ASCII only. For other text the first of these that is installed: Linux, macOS, Windows.
FONTS = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf")
PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)


def colorize(label_map: np.ndarray, num_labels: int) -> Image.Image:
    """
    Colour a label map.

    Args:
        label_map: (H, W) integers from 0 to `num_labels` - 1; numpy array or CPU tensor.
        num_labels: How many labels there are.

    Returns:
        RGB image of W x H pixels.

    Raises:
        ValueError: If the map is not (H, W) or holds other ids.
    """
    return Image.fromarray(palette(num_labels)[_check_map(label_map, num_labels)])


def label_image(label_map: np.ndarray, labels: Sequence[str]) -> Image.Image:
    """
    A label map as a picture that keeps the ids: 8 bits a pixel with [`label_colors`] as palette, 16 beyond 256 labels.

    Args:
        label_map: (H, W) integers from 0 to len(labels) - 1.
        labels: Names in the order of the ids.
    """
    picture = Image.fromarray(label_map.astype(np.uint8 if len(labels) <= 256 else np.uint16))
    if picture.mode == "L":
        picture.putpalette(label_colors(labels).flatten().tolist())
    return picture


def overlay(image: Image.Image, label_map: np.ndarray, labels: Sequence[str], opacity: float = 0.5) -> Image.Image:
    """
    Draw translucent masks with outlines and names over a photo, and below it a legend of labels and their shares.

    Args:
        image: The photo, any mode.
        label_map: (H, W) integers from 0 to len(labels) - 1, of the photo's size; numpy array or CPU tensor.
        labels: Names in the order of the ids; [`label_colors`] has their colours, "background" has none. Each name is
            written on the label's widest region if it fits. The legend has those that occur, at most the 30 largest.
        opacity: Opacity of the masks, from 0 (only the photo) to 1 (only masks).

    Returns:
        RGB image, as wide as the photo (at least 320 pixels) and as much higher as the legend needs.

    Raises:
        ValueError: If the map does not fit the photo or the labels, or the opacity is out of range.
    """
    ids = _check_map(label_map, len(labels))
    if ids.shape != image.size[::-1]:
        raise ValueError(f"The label map is {ids.shape[1]}x{ids.shape[0]}, the photo {image.width}x{image.height}.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be between 0 and 1, got {opacity}.")
    colors = label_colors(labels)
    masks = Image.fromarray(colors[ids])
    thickness = max(1, round(_unit(*image.size) / 12))
    masks.paste(PAPER, mask=Image.fromarray(_outlines(ids, thickness)))
    photo = to_rgb(image)
    picture = Image.blend(photo, masks, opacity)
    background = [index for index, label in enumerate(labels) if label == BACKGROUND]
    if background:
        colors[background] = PAPER
        picture.paste(photo, mask=Image.fromarray(np.isin(ids, background) & ~_outlines(ids, thickness)))
    shares = np.bincount(ids.ravel(), minlength=len(labels)) / ids.size
    order = [int(index) for index in np.argsort(-shares, kind="stable") if shares[index] > 0]
    if opacity:
        _draw_names(
            picture, ids, {index: labels[index] for index in order[:MOST_LEGEND_ENTRIES] if index not in background}
        )
    entries = [(labels[index], format_share(shares[index]), tuple(colors[index].tolist())) for index in order]
    if len(entries) > MOST_LEGEND_ENTRIES:
        rest = shares[order[MOST_LEGEND_ENTRIES:]]
        entries[MOST_LEGEND_ENTRIES:] = [(f"{len(rest)} more", format_share(rest.sum()), PAPER)]
    return _with_legend(picture, entries)


def reconstruction_sheet(
    original: Image.Image | None, reconstructions: Sequence[Image.Image], captions: Sequence[str] | None = None
) -> Image.Image:
    """
    Draw a photo and its reconstructions in a grid of a screen's shape, each with a caption.

    Args:
        original: The photo; None if there are only its codes.
        reconstructions: Pictures decoded from 1, 2, ... levels of codes, resized to the photo's size.
        captions: One per reconstruction; by default the number of levels.

    Raises:
        ValueError: If there is nothing to show or the number of captions differs.
    """
    if captions is None:
        captions = [f"{count} level{'s' if count > 1 else ''}" for count in range(1, len(reconstructions) + 1)]
    if not reconstructions or len(captions) != len(reconstructions):
        raise ValueError(f"Got {len(reconstructions)} reconstructions and {len(captions)} captions.")
    named = list(zip(captions, reconstructions, strict=True))
    if original is not None:
        named.insert(0, ("original", original))
    width, height = named[0][1].size
    cell_width = max(width, NARROWEST_CANVAS // 2)
    unit = min(_unit(width, height), cell_width / 10)
    font, gap = _load_font(unit, captions), max(2, round(unit / 2))
    cell_height = height + round(unit * 1.8)
    count = len(named)
    columns = _grid_columns(count, cell_width / cell_height)
    size = (columns * (cell_width + gap) + gap, -(-count // columns) * (cell_height + gap) + gap)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (caption, picture) in enumerate(named):
        left = gap + index % columns * (cell_width + gap)
        top = gap + index // columns * (cell_height + gap)
        sheet.paste(to_rgb(picture).resize((width, height), Image.Resampling.BICUBIC), (left, top))
        text = _shorten(caption, font, cell_width)
        draw.text((left, top + height + unit * 0.9), text, fill=INK, font=font, anchor="lm")
    return sheet


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """
    Draw rows of pictures, each below its caption.

    Args:
        rows: Caption and RGB pictures of each row; the pictures are drawn side by side, not resized.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("A contact sheet needs at least one row.")
    unit, gap = 14, 8
    font, line = _load_font(unit, [caption for caption, _ in rows]), unit * 2
    width = max(sum(picture.width + gap for picture in pictures) for _, pictures in rows) + gap
    heights = [line + max(picture.height for picture in pictures) + gap for _, pictures in rows]
    sheet = Image.new("RGB", (width, sum(heights)), PAPER)
    draw, top = ImageDraw.Draw(sheet), 0
    for (caption, pictures), height in zip(rows, heights, strict=True):
        text = _shorten(caption, font, width - 2 * gap)
        draw.text((gap, top + line / 2), text, fill=INK, font=font, anchor="lm")
        left = gap
        for picture in pictures:
            sheet.paste(picture, (left, top + line))
            left += picture.width + gap
        top += height
    return sheet


def format_share(share: float) -> str:
    """0.123 as "12 %", anything below 0.01 as "< 1 %"."""
    return "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def _check_map(label_map: np.ndarray, num_labels: int) -> np.ndarray:
    ids = np.asarray(label_map)
    if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"A label map must be (H, W) integers, got {ids.dtype} {ids.shape}.")
    if ids.min() < 0 or ids.max() >= num_labels:
        raise ValueError(f"The label map holds ids {ids.min()} to {ids.max()}, but there are {num_labels} labels.")
    return ids


def _outlines(ids: np.ndarray, thickness: int) -> np.ndarray:
    """Whether each pixel is within `thickness` of the right or lower border of a region: (H, W) bool."""
    outlines = np.zeros(ids.shape, dtype=bool)
    for shift in range(1, thickness + 1):
        outlines[shift:] |= ids[shift:] != ids[:-shift]
        outlines[:, shift:] |= ids[:, shift:] != ids[:, :-shift]
    return outlines


def _draw_names(picture: Image.Image, ids: np.ndarray, names: dict[int, str]) -> None:
    """Write each label's name in the middle of its widest region, the largest label first, where there is room."""
    unit = _unit(*picture.size)
    font = _load_font(unit, list(names.values()))
    step = max(1, round(max(ids.shape) / NAME_GRID))
    coarse, draw = ids[step // 2 :: step, step // 2 :: step], ImageDraw.Draw(picture)
    taken: list[tuple[float, float, float, float]] = []
    for index, name in names.items():
        row, column, radius = _widest_place(coarse == index)
        half_width, half_height = font.getlength(name) / 2 + unit / 4, unit * 0.7
        # The name may cross the region's border, but not be larger than the region.
        if radius * step < half_height or radius * step < half_width / 3:
            continue
        x = min(max(column * step + step / 2, half_width), picture.width - half_width)
        y = min(max(row * step + step / 2, half_height), picture.height - half_height)
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        inside = box[0] >= 0 and box[1] >= 0
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            stroke = max(1, round(unit / 7))
            draw.text((x, y), name, fill=PAPER, font=font, anchor="mm", stroke_width=stroke, stroke_fill=INK)


def _widest_place(mask: np.ndarray) -> tuple[int, int, int]:
    """Row and column of the place in a mask that is farthest from its border, and how far it is; 0 if empty."""
    padded, radius = np.pad(mask, 1), 0
    row, column = 0, 0
    while padded.any():
        radius += 1
        places = np.argwhere(padded)
        row, column = places[len(places) // 2] - 1
        inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        padded = np.pad(inner, 1)
    return int(row), int(column), radius


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _unit(width: int, height: int) -> float:
    """Font size for a picture of this size: about 1/32 of its side, at least 12 pixels."""
    return max(12.0, (width * height) ** 0.5 / 32)


def _load_font(size: float, texts: Sequence[str]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in () if all(map(str.isascii, texts)) else FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:  # not installed
            continue
    return ImageFont.load_default(size)


def _grid_columns(count: int, aspect: float) -> int:
    """Columns of a grid of `count` cells, `aspect` times as wide as high, whose shape is nearest to a screen's."""
    return min(range(1, count + 1), key=lambda columns: abs(columns * aspect / -(-count // columns) - SHEET_ASPECT))


def _with_legend(picture: Image.Image, entries: list[tuple[str, str, tuple[int, ...]]]) -> Image.Image:
    """Add a strip with a swatch, a name and a share per entry, wrapped into rows."""
    width = max(picture.width, NARROWEST_CANVAS)
    unit = min(_unit(*picture.size), width / 20)
    font, line = _load_font(unit, [name for name, _, _ in entries]), unit * 1.7
    placed, left, row = [], unit / 2, 0
    for name, share, color in entries:
        name = _shorten(name, font, width - unit * 3 - font.getlength("  " + share))
        entry_width = unit * 2.7 + font.getlength(f"{name}  {share}")
        if left > unit and left + entry_width > width:
            left, row = unit / 2, row + 1
        placed.append((name, share, color, left, row))
        left += entry_width
    canvas = Image.new("RGB", (width, picture.height + round(line * (row + 1) + unit * 0.4)), PAPER)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for name, share, color, left, row in placed:
        middle = picture.height + unit * 0.2 + line * (row + 0.5)
        draw.rectangle((left, middle - unit / 2, left + unit, middle + unit / 2), fill=color, outline=FAINT)
        draw.text((left + unit * 1.4, middle), name, fill=INK, font=font, anchor="lm")
        share_left = left + unit * 1.4 + font.getlength(name + "  ")
        draw.text((share_left, middle), share, fill=FAINT, font=font, anchor="lm")
    return canvas


def _shorten(text: str, font, width: float) -> str:
    """Cut a text that is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
