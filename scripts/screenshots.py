"""Make the pictures of `amodal view` in docs/: `python scripts/screenshots.py runs/earth`, a run of
`amodal demo`."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from amodal.serve.view import application

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.serve.runs import running  # noqa: E402

DOCS = ROOT / "docs"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def settled(page: Page) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)


def on_map(page: Page) -> None:
    page.wait_for_selector("[data-code]")
    box = page.locator(".stage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.16 * box["height"])
    settled(page)


def density(page: Page) -> None:
    page.wait_for_selector("[data-code]")
    page.click("text=Density")
    page.click("text=Names")
    settled(page)


def gallery(page: Page) -> None:
    page.wait_for_selector(".tiles img")
    page.click("text=What the data say")
    for facet in ("data:colour.brightness", "data:relief.contrast"):
        page.click(f"[data-facet='{facet}'] summary")
        page.wait_for_selector(f"[data-facet='{facet}'] [data-count]", state="attached")
    box = page.locator(".histogram").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 20, steps=5)
    page.mouse.up()
    settled(page)


PICTURES = (  # name, tab, width, height, dark, what is done there
    ("view-map", "map", 1200, 820, False, on_map),
    ("view-density", "map", 1200, 820, False, density),
    ("view-gallery", "gallery", 1200, 820, False, gallery),
    ("view-fields", "fields", 1200, 820, False, settled),
    ("view-narrow", "search", 390, 780, False, settled),
    ("view-dark", "run", 1200, 820, True, settled),
)


def main(run: str, *names: str) -> None:
    system = shutil.which("chromium") or shutil.which("google-chrome")
    with running(application(run, data="globe")) as port, sync_playwright() as p:
        browser = p.chromium.launch(args=FLAGS, executable_path=system)
        for name, tab, width, height, dark, act in PICTURES:
            if names and name not in names:
                continue
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
            )
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/#{tab}")
            settled(page)
            act(page)
            page.screenshot(path=DOCS / f"{name}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
