"""
An HTTP service that segments photos by any words, without PyTorch.

    transformers-pat export exported
    PAT_MODEL=exported uvicorn --app-dir examples/serve app:app
    curl -F photo=@examples/photos/china.jpg -F labels="sky, building, tree" localhost:8000/segment
"""

import base64
import io
import os
from typing import Annotated

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException
from PIL import Image

from transformers_pat.onnx import OnnxSegmenter

MOST_BYTES = 20_000_000
Image.MAX_IMAGE_PIXELS = 50_000_000  # Pillow refuses twice as many

app = FastAPI(title="PAT")
segmenter = OnnxSegmenter(os.environ.get("PAT_MODEL", "exported"))


@app.post("/segment")
def segment(
    photo: Annotated[bytes, File(description="JPEG, PNG, WebP ...")],
    labels: Annotated[str, Form(description="Words, separated by commas; semicolons join synonyms.")],
    background: Annotated[bool, Form(description='Mark what fits none of the words as "background".')] = False,
) -> dict:
    """Each label's share and score, 0 to 1, and a PNG whose pixels are indices into `labels`."""
    if len(photo) > MOST_BYTES:
        raise HTTPException(413, f"the photo has {len(photo)} bytes, at most {MOST_BYTES} are read")
    try:
        masks = segmenter(io.BytesIO(photo), labels, "learned" if background else None)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    label_map = np.zeros(np.asarray(masks[0]["mask"]).shape, dtype=np.uint16)
    found = []
    for index, one in enumerate(masks):
        inside = np.asarray(one["mask"]) > 0
        label_map[inside] = index
        found.append({"label": one["label"], "score": one["score"], "share": float(inside.mean())})
    png = io.BytesIO()
    Image.fromarray(label_map).save(png, "PNG")
    return {"labels": found, "label_map": base64.b64encode(png.getvalue()).decode()}


@app.get("/health")
def health() -> dict:
    """Answers once the model is loaded."""
    return {"model": str(segmenter.folder)}
