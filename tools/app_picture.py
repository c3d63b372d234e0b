"""Takes the picture of the app in docs/app.md: `python tools/app_picture.py`. Needs Chromium."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from transformers_pat.app import Engine, build_page, launch
from transformers_pat.cli.app import app

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos"
WORDS = "sky, building, tree, water"


def main() -> None:
    """Open the app with an example photo, find words in it, and save what the window shows."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        assert CliRunner().invoke(app, ["tokenize", str(PHOTOS), "--output", f"{folder}/tokens"]).exit_code == 0
        page = build_page(Engine("pat-nano", f"{folder}/tokens"))
        launch(page, prevent_thread_lock=True, quiet=True)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1280, "height": 830})
        window.goto(page.local_url)
        window.set_input_files("#photo input[type=file]", str(PHOTOS / "china.jpg"))
        window.wait_for_selector("#photo img")
        window.locator("#words textarea, #words input").fill(WORDS)
        window.click("#run")
        window.wait_for_selector("#masks .chip")
        window.mouse.move(0, 0)
        window.wait_for_timeout(1000)  # until the button has faded
        window.screenshot(path=str(ROOT / "docs" / "images" / "app.png"))
        browser.close()
        page.close()


if __name__ == "__main__":
    main()
