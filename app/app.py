"""The app as a Hugging Face Space: `python app.py`."""

from pathlib import Path

from transformers_pat.app import Engine, build_page, launch

PHOTOS = Path(__file__).parent / "photos"
EXAMPLES = [("china.jpg", "sky, building, tree;bush, water"), ("cat.jpg", "cat, grass, wall")]

if __name__ == "__main__":
    examples = [(str(PHOTOS / name), words) for name, words in EXAMPLES if (PHOTOS / name).is_file()]
    launch(build_page(Engine("pat-nano"), examples), host="0.0.0.0", port=7860)
