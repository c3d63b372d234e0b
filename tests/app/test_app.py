"""The app as a visitor uses it, in headless Chromium, and what it says about mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright import sync_api as playwright
from typer.testing import CliRunner

from transformers_pat.app import Engine, build_page, launch
from transformers_pat.archive import TokenArchive
from transformers_pat.cli.app import app as command_line

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "tokens"
    assert CliRunner().invoke(command_line, ["tokenize", str(PHOTOS), "--output", str(folder)]).exit_code == 0
    assert len(TokenArchive(folder)) == 2
    return folder


@pytest.fixture(scope="module")
def engine(archive):
    return Engine("pat-nano", archive, megapixels=8)


@pytest.fixture(scope="module")
def address(engine):
    page = build_page(engine, [(str(PHOTOS / "cat.jpg"), "cat, grass")])
    launch(page, prevent_thread_lock=True, quiet=True)
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Function that opens the page in a window of a size; nothing may fail or leave the machine."""
    pages = []

    def open_page(width=1280, height=900, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.problems = []
        page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith(("data:", "blob:", address)) or page.problems.append(request.url),
        )
        page.goto(address)
        page.wait_for_selector("#words textarea, #words input")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert page.problems == []
        page.close()


def words_box(page):
    return page.locator("#words textarea, #words input")


def upload(page, path):
    page.set_input_files("#photo input[type=file]", str(path))
    page.wait_for_selector("#photo img")


def find(page, words):
    words_box(page).fill(words)
    page.click("#run")
    page.wait_for_selector("#masks .chip")


def chips(page, viewer="#masks"):
    return [text.replace("\n", "") for text in page.locator(f"{viewer} .chip").all_inner_texts()]


def pixels(page, viewer="#masks"):
    """What the canvas shows, (height, width, 4)."""
    read = """canvas => ({
        size: [canvas.height, canvas.width],
        values: Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data),
    })"""
    found = page.locator(f"{viewer} canvas").evaluate(read)
    return np.array(found["values"]).reshape(*found["size"], 4)


@needs_chromium
def test_words_become_masks_that_are_switched_faded_and_named(visit, engine):
    page = visit()
    upload(page, PHOTOS / "china.jpg")
    find(page, "sky, building, tree;bush")
    photo = engine.open(PHOTOS / "china.jpg")
    expected = engine.segment(photo, ["sky", "building", "tree;bush"], None)
    shares = {region.label.split(";")[0]: round(region.share * 100) for region in expected.regions}
    order = sorted(shares, key=shares.get, reverse=True)
    page.wait_for_function(f"document.querySelectorAll('#masks .chip').length == {len(order)}")
    assert chips(page) == [f"{name}{shares[name]} %" for name in order]

    with_all = pixels(page)
    assert with_all.shape[:2] == expected.label_map.shape
    page.get_by_role("checkbox", name="sky").uncheck()
    without = pixels(page)
    changed = (with_all != without).any(-1)
    assert changed.mean() == pytest.approx(expected.regions[0].share, abs=0.02)
    assert np.abs(without[changed][:, :3] - np.asarray(photo)[changed]).mean() < 5  # the photo itself, as a JPEG
    page.get_by_label("opacity").first.fill("1")
    assert np.abs(pixels(page)[250, 200, :3] - (213, 94, 0)).max() <= 2  # a building

    canvas = page.locator("#masks canvas")
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * 0.35, "y": box["height"] * 0.5})
    assert page.locator("#masks .tip").inner_text().startswith("building, score 0.")
    find(page, "sky, cat")
    page.wait_for_function("!document.querySelector('#masks').innerText.includes('building')")
    for button, check in (
        ("Picture", lambda path: Image.open(path).size[0] == photo.width),
        ("Label map", lambda path: Image.open(path).size == photo.size),
        ("JSON", lambda path: [row["label"] for row in json.loads(path.read_text())["labels"]] == ["sky", "cat"]),
    ):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert check(Path(download.value.path()))


@needs_chromium
def test_background_and_baseline(visit):
    page = visit()
    upload(page, PHOTOS / "china.jpg")
    page.get_by_label("what these words fit stays free").check()
    page.get_by_label("Background words").fill("building, tree")
    page.get_by_label("Compare with CLIP").check()
    find(page, "sky")
    page.wait_for_selector("#baseline canvas:visible")
    assert [chip.startswith("sky") for chip in chips(page)] == [True]  # the background has no mask
    assert "CLIP alone" in page.locator("#baseline").inner_text()


@needs_chromium
def test_tokens_are_explained_where_one_clicks(visit):
    page = visit()
    upload(page, PHOTOS / "cat.jpg")
    page.get_by_role("tab", name="Tokens").click()
    page.wait_for_selector("#tokens canvas:visible")
    page.wait_for_selector("#pictures img")
    assert page.locator("#pictures img").count() == 3
    canvas = page.locator("#tokens canvas")
    canvas.click()
    page.wait_for_selector("#code strong")
    assert "Level 3, code" in page.locator("#code").inner_text() and "Nearest:" in page.locator("#code").inner_text()
    page.get_by_label("1", exact=True).check()
    canvas = page.locator("#tokens canvas")
    canvas.focus()
    canvas.press("ArrowRight")
    canvas.press("Enter")
    page.wait_for_function("document.querySelector('#code').innerText.includes('Level 1')")


@needs_chromium
def test_an_archive_is_searched(visit):
    page = visit()
    page.get_by_role("tab", name="Archive").click()
    asked = page.locator("#asked textarea, #asked input")
    asked.fill("cat")
    asked.press("Enter")
    page.wait_for_selector("#found img")
    assert page.locator("#found").inner_text().count("cat.jpg") >= 1


@needs_chromium
@pytest.mark.parametrize(
    ("words", "photo", "message"),
    [
        ("", "cat.jpg", "type what to look for"),
        (",".join(f"word {index}" for index in range(300)), "cat.jpg", "300 labels are too many"),
        ("cat", "cat.jpg", "'cat' alone would get every pixel"),
        ("cat, cat", "cat.jpg", "twice"),
        ("sky, tree", None, "choose a photo first"),
        ("sky, tree", "text.jpg", "this file is no photo that can be read"),
        ("sky, tree", "large.png", "this photo has 9 megapixels; 8 is the most here"),
    ],
)
def test_a_mistake_is_a_message_in_the_page(visit, tmp_path, words, photo, message):
    Image.new("RGB", (3000, 3000)).save(tmp_path / "large.png")
    (tmp_path / "text.jpg").write_text("no photo")
    page = visit()
    if photo:
        upload(page, PHOTOS / photo if photo == "cat.jpg" else tmp_path / photo)
    words_box(page).fill(words)
    page.click("#run")
    page.wait_for_selector(".toast-body")
    assert message in page.locator(".toast-body").inner_text()
    page.problems.clear()  # Chromium counts the answer that carries the message as a failed request


@needs_chromium
def test_everything_works_by_keyboard(visit):
    page = visit()
    upload(page, PHOTOS / "china.jpg")
    words_box(page).focus()
    page.keyboard.type("sky, building")
    page.keyboard.press("Enter")
    page.wait_for_selector("#masks .chip")
    before = pixels(page)
    canvas = page.locator("#masks canvas")
    page.get_by_role("tab", name="Masks").focus()
    while not canvas.evaluate("node => node === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")
    assert page.locator("#masks .tip").inner_text()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert (pixels(page) != before).any()


@needs_chromium
@pytest.mark.parametrize("options", [{"width": 390, "height": 844}, {"color_scheme": "dark"}])
def test_it_fits_a_phone_and_a_dark_screen(visit, options):
    page = visit(**options)
    upload(page, PHOTOS / "china.jpg")
    page.get_by_label("Compare with CLIP").check()
    find(page, "sky, building")
    page.wait_for_selector("#baseline canvas:visible")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    if "width" in options:
        assert page.locator("#masks canvas").bounding_box()["width"] > 250
    else:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, color.strip("rgb()").split(","))) < 60


def test_without_an_archive_there_is_nothing_to_search():
    with pytest.raises(ValueError, match="start the app with --archive"):
        Engine("pat-nano").search(["cat"], 3)


def test_a_large_photo_is_scaled_down_for_the_page(engine, tmp_path):
    Image.new("RGB", (3000, 2000)).save(tmp_path / "large.png")
    photo = engine.open(tmp_path / "large.png")
    assert photo.width * photo.height == pytest.approx(2e6, rel=0.01) and photo.width / photo.height == pytest.approx(
        1.5, 0.01
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "absent"], "no model absent"),
        (["--archive", "absent"], "absent"),
        (["--port", "{taken}"], "port"),
    ],
)
def test_the_command_refuses_in_one_line(address, arguments, message):
    taken = address.rstrip("/").rpartition(":")[2]
    result = CliRunner().invoke(command_line, ["app", *(argument.format(taken=taken) for argument in arguments)])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.stderr
