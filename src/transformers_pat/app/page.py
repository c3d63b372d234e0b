"""The page: what a visitor sees, and what happens on a click."""

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import gradio as gr
from PIL import Image

from ..cli.archive import draw
from ..prompts_pat import LEARNED, label_names
from ..visualization import label_image, overlay
from .engine import Engine, Segmentation
from .viewer import make_viewer, show_code, show_photo, show_segmentation

TITLE = "PAT: any words, one photo"
INTRO = """# PAT
Type words and see where they are in a photo. "Tokens" shows the codes that the photo becomes."""
BACKGROUNDS = {
    "every pixel gets a label": None,
    "what fits no label stays free": LEARNED,
    "what these words fit stays free": "words",
}
CLICK = "click a place, or move with the arrow keys and press Enter"
FOUND_PHOTOS = 12


@dataclass
class Inputs:
    """What a visitor gives: the photo's path, words, and what to do with the rest of the photo."""

    path: gr.Image
    words: gr.Textbox
    background: gr.Radio
    distractors: gr.Textbox
    compare: gr.Checkbox
    run: gr.Button


def build_page(engine: Engine, examples: list[tuple[str, str]] | None = None) -> gr.Blocks:
    """
    Put the page together.

    Args:
        engine: What computes.
        examples: Photos (paths) and words to try.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                inputs = make_inputs()
            with gr.Column(scale=5, min_width=320):
                with gr.Tab("Masks"):
                    make_masks(engine, inputs)
                with gr.Tab("Tokens") as tab:
                    make_tokens(engine, inputs.path, tab)
                if engine.searcher is not None:
                    with gr.Tab("Archive"):
                        make_search(engine)
        if examples:
            gr.Examples([list(example) for example in examples], [inputs.path, inputs.words], label="Try")
    return page


def make_inputs() -> Inputs:
    """The column at the left."""
    path = make_photo_input()
    words = gr.Textbox(
        label="Words",
        info='Separate by commas; ";" separates synonyms: tree;bush',
        placeholder="sky, building, tree;bush, water",
        elem_id="words",
    )
    background = gr.Radio(list(BACKGROUNDS), value=next(iter(BACKGROUNDS)), label="Background")
    distractors = gr.Textbox(label="Background words", placeholder="wall, floor", visible=False)
    background.change(
        lambda chosen: gr.update(visible=BACKGROUNDS[chosen] == "words"),
        background,
        distractors,
        show_progress="hidden",
    )
    compare = gr.Checkbox(label="Compare with CLIP alone, without training on masks")
    run = gr.Button("Find the words", variant="primary", elem_id="run")
    return Inputs(path, words, background, distractors, compare, run)


def make_masks(engine: Engine, inputs: Inputs) -> None:
    """Masks, beside them the baseline, and files to download."""
    with gr.Row():
        with gr.Column(min_width=300):
            masks = make_viewer("Choose a photo, type words, and press “Find the words”.", "masks")
        with gr.Column(min_width=300, visible=False) as beside:
            baseline = make_viewer("", "baseline")
    with gr.Row(visible=False) as downloads:
        files = [gr.DownloadButton(text, size="sm") for text in ("Picture", "Label map (PNG)", "JSON")]
    given = [inputs.path, inputs.words, inputs.background, inputs.distractors, inputs.compare]
    find = one_line(functools.partial(find_words, engine))
    for event in (inputs.run.click, inputs.words.submit):
        event(find, given, [masks, baseline, beside, downloads, *files], api_name="segment")
    inputs.path.change(lambda: None, None, masks, show_progress="hidden")


def make_tokens(engine: Engine, path: gr.Image, tab: gr.Tab) -> None:
    """A photo to click on, what is said about the place, and what its tokens decode to."""
    levels = [(f"{number + 1}", number) for number in range(engine.model.config.num_levels)]
    level = gr.Radio(levels, value=levels[-1][1], label="Level, from coarse to fine", elem_id="level")
    cells = make_viewer("Choose a photo, then open this tab (again).", "tokens")
    text = gr.Markdown(elem_id="code")
    pictures = make_gallery("The photo from its tokens alone", "pictures")

    def explain_place(path: str | None, level: int, event: gr.EventData) -> tuple:
        return one_line(explain)(engine, path, level, float(event.x), float(event.y))

    tab.select(one_line(functools.partial(show_tokens, engine)), path, [cells, pictures], api_name="tokens")
    cells.select(explain_place, [path, level], [cells, text], show_progress="hidden")
    path.change(lambda: [None, ""], None, [cells, text], show_progress="hidden")


def make_search(engine: Engine) -> None:
    """A search of the archive."""
    assert engine.searcher is not None
    gr.Markdown(f"{len(engine.searcher.archive):,} photos, kept as tokens. Search them by any words.")
    asked = gr.Textbox(label="Words", placeholder="zebra crossing", elem_id="asked")
    search = gr.Button("Search", variant="primary")
    found = make_gallery("Best first", "found")
    for event in (search.click, asked.submit):
        event(one_line(functools.partial(search_archive, engine)), asked, found, api_name="search")


def make_photo_input() -> gr.Image:
    """Gives the path of what was uploaded, unopened: our own message is clearer than a failed request."""
    sources = ["upload", "webcam", "clipboard"]
    photo = gr.Image(label="Photo", type="filepath", sources=sources, height=280, elem_id="photo")
    # Not in a subclass, which gradio takes for a component of another package.
    photo.preprocess = lambda uploaded: uploaded.path if uploaded else None
    return photo


def launch(page: gr.Blocks, host: str = "127.0.0.1", port: int | None = None, megabytes: int = 20, **options) -> None:
    """
    Serve the page.

    Args:
        page: From [`build_page`].
        host: Address to listen on; by default only this machine reaches it.
        port: Port; the first free one from 7860 on by default.
        megabytes: Largest upload.
        options: Of gradio's `launch`.
    """
    page.queue(max_size=32).launch(
        server_name=host,
        server_port=port,
        max_file_size=f"{megabytes}mb",
        theme=gr.themes.Soft(primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        ssr_mode=False,
        **options,
    )


def make_gallery(label: str, elem_id: str) -> gr.Gallery:
    """Pictures side by side, whole, in as much height as they need."""
    return gr.Gallery(label=label, columns=3, height="auto", object_fit="contain", elem_id=elem_id)


def one_line(function: Callable) -> Callable:
    """The function with mistakes shown as a message in the page."""

    @functools.wraps(function)
    def called(*args):
        try:
            return function(*args)
        except ValueError as error:
            raise gr.Error(str(error).splitlines()[0], duration=8, print_exception=False) from None

    return called


def find_words(engine: Engine, path: str | None, text: str, background: str, distractors: str, compare: bool) -> tuple:
    """Masks, baseline and whether it is shown, the row of the files, and the files."""
    photo, labels = engine.open(path), engine.read_words(text)
    policy = BACKGROUNDS[background]
    segmentation = engine.segment(photo, labels, engine.read_words(distractors) if policy == "words" else policy)
    title = "With training on masks (PAT)" if compare else ""
    return (
        show_segmentation(title, segmentation),
        show_segmentation("CLIP alone, without training on masks", engine.baseline(photo, labels))
        if compare
        else None,
        gr.update(visible=compare),
        gr.update(visible=True),
        *map(str, write_files(segmentation)),
    )


def write_files(segmentation: Segmentation) -> list[Path]:
    """Picture, label map and JSON, in a temporary folder that gradio empties."""
    folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
    names = label_names([region.label for region in segmentation.regions])
    files = [folder / name for name in ("overlay.png", "label_map.png", "labels.json")]
    overlay(segmentation.photo, segmentation.label_map, names).save(files[0])
    label_image(segmentation.label_map, names).save(files[1])
    facts = {"labels": [asdict(region) for region in segmentation.regions]}
    files[2].write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
    return files


def show_tokens(engine: Engine, path: str | None) -> tuple:
    """The photo to click on, and what its tokens decode to."""
    photo = engine.open(path)
    pictures = [
        (row.image, f"{row.num_levels}: {row.psnr:.1f} dB, {row.bits_per_pixel:.2f} bit/px")
        for row in engine.reconstruct(photo)
    ]
    return show_photo(photo, CLICK), pictures


def explain(engine: Engine, path: str | None, level: int, x: float, y: float) -> tuple:
    """Where a place's code is, and which words are near it."""
    photo = engine.open(path)
    code = engine.code_at(photo, level, x, y)
    share = f"{code.cells.mean():.1%}".replace("%", " %")
    place = f"**Level {level + 1}, code {code.index}**"
    return show_code(photo, code), f"{place}: {share} of this photo. Nearest: {', '.join(code.words)}."


def search_archive(engine: Engine, text: str) -> list[tuple[Image.Image, str]]:
    """Pictures of the photos that were found, with masks."""
    words = engine.read_words(text)
    found = engine.search(words, FOUND_PHOTOS)
    if not found:
        raise ValueError("no photo of the archive shows any of these words")
    assert engine.searcher is not None
    embeds = engine.searcher.text_embeds(words)
    return [
        (draw(one, engine.searcher, words, embeds), f"{Path(one.photo.source).name}, {one.score:.2f}") for one in found
    ]
