"""The part of the page that shows a photo with masks, see `viewer.js`."""

import base64
import io
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from ..colors import label_colors
from ..prompts_pat import BACKGROUND, label_names
from .engine import CodeAt, Segmentation

FILES = Path(__file__).parent


def make_viewer(hint: str, elem_id: str) -> gr.HTML:
    """A viewer that says `hint` until it has something to show; its event `select` has `x` and `y`, 0 to 1."""
    html, css, script = ((FILES / f"viewer.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js"))
    return gr.HTML(
        None,
        html_template=html,
        css_template=css,
        js_on_load=script,
        hint=hint,
        elem_id=elem_id,
        padding=False,
        min_width=300,
    )


def show_segmentation(title: str, found: Segmentation) -> dict:
    """A segmentation as a viewer's value."""
    names = label_names([region.label for region in found.regions])
    colors = [
        None if name == BACKGROUND else color for name, color in zip(names, label_colors(names).tolist(), strict=True)
    ]
    labels: list[dict] = [
        {"name": name, "color": color, "share": region.share, "score": region.mean_score}
        for name, color, region in zip(names, colors, found.regions, strict=True)
    ]
    return viewer_value(title, found.photo, found.label_map, labels, opacity=0.5)


def show_code(photo: Image.Image, code: CodeAt) -> dict:
    """The cells of a code as a viewer's value."""
    share = float(code.cells.mean())
    labels: list[dict] = [
        {"name": "other codes", "color": None, "share": 1 - share, "score": None},
        {"name": f"code {code.index}", "color": [230, 159, 0], "share": share, "score": None},
    ]
    return viewer_value(f"Level {code.level + 1}, code {code.index}", photo, code.cells, labels, opacity=0.65)


def show_photo(photo: Image.Image, hint: str) -> dict:
    """A photo without masks as a viewer's value."""
    labels: list[dict] = [{"name": hint, "color": None, "share": 1.0, "score": None}]
    return viewer_value("", photo, np.zeros((photo.height, photo.width)), labels, opacity=0.5)


def viewer_value(title: str, photo: Image.Image, ids: np.ndarray, labels: list[dict], opacity: float) -> dict:
    """What `viewer.js` reads; at most 256 labels."""
    return {
        "title": title,
        "photo": data_url(photo, "JPEG", quality=88),
        "ids": data_url(Image.fromarray(ids.astype(np.uint8)), "PNG"),
        "labels": labels,
        "opacity": opacity,
    }


def data_url(picture: Image.Image, form: str, **options) -> str:
    """A picture as part of a page."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
