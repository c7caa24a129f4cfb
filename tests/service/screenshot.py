"""Take the screenshot of the dashboard: `python -m tests.service.screenshot docs/images/dashboard.png`.

It trains a small model of synthetic hourly values with a daily and a weekly pattern, and serves it.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from forecaster.registry.store import Store
from forecaster.registry.sync import sync
from forecaster.training.job import train
from service.settings import Settings
from tests.conftest import small_config
from tests.service.site import serving

RECIPE = {
    "name": "load",
    "data": {
        "source": "sine",
        "unique_id": "city",
        "length": 5000,
        "level": 60,
        "sines": [{"amplitude": 12, "period": 24}, {"amplitude": 5, "period": 168}, {"amplitude": 4, "period": 8}],
        "noise": 1.5,
        "seed": 3,
    },
    "input_size": 72,
    "horizon": 24,
    "model": {"cell": "gru", "widths": [32]},
    "fit": {"epochs": 8, "batch_size": 64, "learning_rate": 0.01},
}
SIZE = {"width": 1280, "height": 800}
COLOURS = 128


def take_screenshot(url: str, file: Path) -> None:
    """Write the page at `url`, in the light scheme, to a PNG with a small palette."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        page.goto(url)
        expect(page.locator("#forecast-chart .legendtext").last).to_be_visible()
        expect(page.locator("#evidence dl")).to_be_visible()
        screenshot = page.screenshot()
        browser.close()
    image = Image.open(io.BytesIO(screenshot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(file, optimize=True)


def main() -> None:
    """Train a model, serve it and take the screenshot."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registered = train(small_config(folder, **RECIPE))
        store = Store(f"sqlite:///{folder}/mlflow.db")
        store.promote("load", registered.version)
        sync(store, folder / "cache")
        settings = Settings(
            cache_dir=folder / "cache",
            bars_dir=folder / "none",
            database_url=f"sqlite:///{folder}/ledger.db",
            tracking_uri="",
        )
        with serving(settings) as url:
            take_screenshot(url, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
