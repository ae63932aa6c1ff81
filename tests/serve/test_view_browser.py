"""The page of `amodal view` in a real browser: load, lasso, search, lists, fields. Skipped where
there is none."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from amodal.serve import app
from amodal.serve.view import application, router
from tests.serve.runs import RECORDS, data, png, running
from tests.serve.test_view import compared

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
torch.set_num_threads(1)
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader"]
TOGETHER = 15_000
"""Milliseconds to wait for anything on a slow machine."""


def chromium(p):
    """Playwright's own Chromium, or the system's."""
    system = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if not os.path.exists(p.chromium.executable_path) and system is None:
        pytest.skip("no Chromium: `playwright install chromium`, or your system's package")
    own = {} if os.path.exists(p.chromium.executable_path) else {"executable_path": system}
    return p.chromium.launch(args=FLAGS, **own)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        made = chromium(p)
        yield made
        made.close()


@pytest.fixture(scope="module")
def address(model):
    made = app(model)
    made.include_router(router(model.path, service=made.state.service, dataset=model.read(data())))
    with running(made) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture()
def page(browser):
    made = browser.new_context(viewport={"width": 1200, "height": 800}).new_page()
    made.set_default_timeout(TOGETHER)
    made.wrong = []
    made.on("pageerror", lambda error: made.wrong.append(str(error)))
    made.on(
        "response", lambda r: made.wrong.append(f"{r.status} {r.url}") if r.status >= 500 else None
    )
    yield made
    assert not made.wrong
    made.context.close()


@pytest.mark.parametrize("query", ["", "?webgl", "?canvas"])
def test_lasso_pick_and_hover_on_the_map(page, address, query):
    page.goto(address + query)
    page.wait_for_selector(f".stage[data-points='{RECORDS}']")
    drawn = page.get_attribute(".stage", "data-kind")
    assert drawn == query[1:] or (query == "" and drawn == "canvas"), "WebGL is in software here"
    box = page.locator(".stage").bounding_box()
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)]
    x, y = zip(*[(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in corners])
    page.click("text=Lasso")
    page.mouse.move(x[0], y[0])
    page.mouse.down()
    for at in zip(x[1:], y[1:]):
        page.mouse.move(*at, steps=3)
    page.mouse.up()
    assert page.get_attribute("[data-selected]", "data-selected") == str(RECORDS)
    page.locator(".list button").nth(3).click()
    page.wait_for_selector("aside .card img")
    assert page.locator("aside .card audio").count() == 1
    page.click("text=Reset")
    assert page.get_attribute("[data-selected]", "data-selected") == "0"
    page.focus(".stage canvas")
    for key in ("ArrowLeft", "+", "-", "0", "Enter"):
        page.keyboard.press(key)
    page.select_option("label:has-text('Colour') select", "has:text")
    page.wait_for_selector(".legend >> text=there")


def test_the_legend_filters_the_map(page, address):
    page.goto(address)
    page.wait_for_selector(f".stage[data-points='{RECORDS}']")
    page.focus("[data-code] >> text=blue")
    page.locator("[data-code]:has-text('blue')").press("Enter")
    page.click("text=Select what is in view")
    assert page.get_attribute("[data-selected]", "data-selected") == str(RECORDS // 2)
    page.locator("[data-code]:has-text('red')").press("Space")
    page.click("text=Select what is in view")
    assert page.get_attribute("[data-selected]", "data-selected") == str(RECORDS)
    page.locator("[data-code]:has-text('blue')").press("Space")
    assert page.get_attribute("[data-selected]", "data-selected") == str(RECORDS // 2)
    page.click("text=Show all")
    page.select_option("label:has-text('Colour') select", "cluster")
    page.wait_for_selector("[data-code]:not(:has-text('red'))")


COLOURED = """([tint]) => {
  const canvas = document.querySelector(".stage canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4)
    count += data[i] === tint[0] && data[i + 1] === tint[1] && data[i + 2] === tint[2];
  return count;
}"""


def test_points_have_the_colours_of_the_legend(page, address):
    page.goto(f"{address}?canvas")
    page.wait_for_selector("[data-code]:has-text('blue')")
    tints = {}
    for name in ("red", "blue"):
        tint = page.locator(f"[data-code]:has-text('{name}') i").evaluate(
            "mark => getComputedStyle(mark).backgroundColor.match(/[0-9]+/g).map(Number)"
        )
        tints[name] = [tint]

    def coloured(name, most):
        for _ in range(50):
            found = page.evaluate(COLOURED, tints[name])
            if (found == 0) == (most == 0):
                break
            page.wait_for_timeout(50)
        return found

    assert tints["red"] != tints["blue"]
    assert 40 < coloured("red", 1) < 12 * 12 * RECORDS and 40 < coloured("blue", 1)
    page.click("[data-code]:has-text('blue')")
    assert coloured("red", 0) == 0 and coloured("blue", 1) > 40


def test_search_by_words_a_picture_a_record_and_a_mix(page, address):
    page.goto(address + "#search")
    page.fill("#q-text", "a thing, number 7")
    page.press("#q-text", "Enter")
    first = page.locator("[data-field=text] article").first
    first.wait_for()
    assert first.get_attribute("data-number") == "7"
    assert page.locator(".query").is_hidden(), "the form folds away after the first hit"
    summary = "summary:has-text('Query: text “a thing, number 7”')"
    assert page.locator(f"{summary}:focus").count() == 1
    page.keyboard.press("Enter")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "p.png")
        picture.write_bytes(png(5))
        page.set_input_files("#q-image", picture)
        page.fill("#q-text", "")
        page.click("button.main")
        page.wait_for_selector("[data-field=image] article:first-of-type[data-number='5']")
        page.click("summary:has-text('Query: image p.png')")
        page.get_by_label("weight of image").fill("-1")
        page.click("button.main")
        page.wait_for_selector("[data-field=image] article:first-of-type:not([data-number='5'])")
    page.click("summary:has-text('Query: image p.png × -1')")
    page.click("text=Clear")
    page.click("button.main")
    page.wait_for_selector("#status >> text=nothing to look for")


def test_every_tab_opens_by_the_keyboard(page, address):
    page.goto(address)
    page.focus("[role=tab][data-tab=map]")
    for name, inside in (
        ("gallery", ".tiles img"),
        ("search", ".query"),
        ("run", ".charts svg"),
        ("yardsticks", "pre >> text=amodal evaluate"),
        ("records", "[data-list=outliers] td"),
        ("fields", "tbody td"),
    ):
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"[role=tabpanel][data-tab={name}] {inside}")
    page.wait_for_selector(".cards article")
    before = page.locator(".cards article").evaluate_all("all => all.map(a => a.dataset.number)")
    for box in page.locator("fieldset label:not(:has-text('text')) input").all():
        box.uncheck()
    for _ in range(100):  # the page's own policy keeps wait_for_function out
        after = page.locator(".cards article").evaluate_all("all => all.map(a => a.dataset.number)")
        if after and after != before:
            break
        page.wait_for_timeout(100)
    assert after and after != before
    assert page.locator("tbody tr").count() >= 2


def test_a_record_is_found_on_the_map_coloured_by_raw_data_and_saved_in_a_list(page, address):
    page.goto(address)
    page.wait_for_selector(f".stage[data-points='{RECORDS}']")
    page.select_option("label:has-text('Colour') select", "data:cells.age")
    page.wait_for_selector(".legend canvas")
    page.fill("#find-on-map", "7")
    page.press("#find-on-map", "Enter")
    page.wait_for_selector("aside [data-number='7'] svg.plot")
    page.click("text=Select what is in view")
    with page.expect_download() as saved:
        page.click("text=Save the selection as CSV")
    assert Path(saved.value.path()).read_text(encoding="utf-8").splitlines()[0] == "record,colour"
    page.fill("#find-on-map", "nobody")
    page.press("#find-on-map", "Enter")
    page.wait_for_selector("#status >> text=no record's name holds nobody")


def test_a_run_is_followed_and_compared_while_it_trains(page, tmp_path):
    run = tmp_path / "now"
    for folder, steps in ((run, 2), (tmp_path / "before", 4)):
        folder.mkdir()
        config = {"method": "clip", "status": "running", "schedule": {"steps": 4, "lr": 1 / steps}}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        lines = [
            json.dumps({"step": i, "loss": 3 - i / 2, "conflict/a~b": 0.1})
            for i in range(1, steps + 1)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with running(application(run)) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("[data-step='2']")
        page.wait_for_selector("figure:has-text('Gradient conflict')")
        page.click("summary")
        page.get_by_label("before").check()
        page.wait_for_selector("path.other")
        assert page.inner_text("tr:has-text('lr') td:nth-of-type(2)") == "0.25"
        with (run / "metrics.jsonl").open("a", encoding="utf-8") as more:
            more.write('{"step": 3, "loss": 1.5}\n')
        page.wait_for_selector("[data-step='3']")
        assert page.locator("path.other").count() == 2, "and still compared"


def test_values_of_a_run_under_the_cursor_smoothed_and_on_a_log_scale(page, tmp_path):
    losses = [8.0, 4.0, 2.0, 4.0]
    (tmp_path / "config.json").write_text('{"method": "clip", "status": "done"}', encoding="utf-8")
    lines = [{"step": 10 * i, "loss": v, "alignment/a": v - 4} for i, v in enumerate(losses, 1)]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8"
    )
    with running(application(tmp_path)) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        loss = page.locator("figure:has(svg[data-title='Loss'])")
        loss.wait_for()
        assert loss.locator("figcaption").inner_text() == "4"
        box = loss.locator("svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.42, box["y"] + box["height"] / 2)
        assert loss.locator("h3").inner_text() == "Loss step 20"
        assert loss.locator("figcaption").inner_text() == "4"
        other = page.locator("figure:has(svg[data-title='Alignment'])")
        assert other.locator("figcaption").inner_text() == "0", "the cursor is of all charts"
        page.mouse.move(0, 0)
        loss.locator("svg").focus()
        for key, step, value in (("ArrowLeft", 40, "4"), ("ArrowLeft", 30, "2"), ("Home", 10, "8")):
            page.keyboard.press(key)
            assert loss.locator("h3").inner_text() == f"Loss step {step}"
            assert loss.locator("figcaption").inner_text() == value
        page.keyboard.press("Escape")
        assert loss.locator("h3").inner_text() == "Loss"
        page.get_by_label("smoothing").fill("0.5")
        mean = (8 / 8 + 4 / 4 + 2 / 2 + 4) / (1 / 8 + 1 / 4 + 1 / 2 + 1)
        assert loss.locator("figcaption").inner_text() == f"{mean:.2f} (raw 4)"
        page.get_by_label("smoothing").fill("0")
        middle = "svg[data-title='Loss'] path:not(.axis, .cursor)"
        before = page.get_attribute(middle, "d")
        page.get_by_label("Log scale").check()
        after = page.get_attribute(middle, "d")
        height = [float(p.split()[1]) for p in after[1:].split("L")]
        assert height[1] - height[0] == pytest.approx(height[2] - height[1], abs=0.2), "8, 4, 2"
        assert after != before
        assert other.locator("text=Linear: some values are not above 0").count() == 1


def test_a_narrow_screen_does_not_scroll_sideways(browser, address):
    page = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme="dark"
    ).new_page()
    for name in ("map", "gallery", "search", "run", "yardsticks", "records", "fields"):
        page.goto(f"{address}#{name}")
        page.reload()
        page.wait_for_selector(f"[role=tabpanel][data-tab={name}] > *")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    page.context.close()


def test_a_comparison_is_drawn_and_followed(page, tmp_path):
    folder = compared(tmp_path / "compared", finished=False)
    with running(application(folder)) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#sentence >> text=So far: take mae with simple features")
        assert page.locator("tbody tr").count() == 3 and page.locator("tr.chosen").count() == 1
        assert page.locator("circle").count() == 2, "one that failed has no value to draw"
        assert page.locator("figure.card").count() == 2, "intervals and curves"
        assert page.locator("details table").count() == 0, "reasons are text"
        assert page.locator("text=Frozen encoders: image by timm:vit.").count() == 1
        compared(tmp_path / "later")
        (tmp_path / "later" / "comparison.json").replace(folder / "comparison.json")
        page.wait_for_selector("#sentence >> text=On the test part, once: 0.88")


@pytest.mark.parametrize("query", ["?webgl", "?canvas"])
def test_density_stands_in_for_the_points_and_follows_the_legend(page, address, query):
    page.goto(address + query)
    page.wait_for_selector(f".stage[data-points='{RECORDS}']")
    page.wait_for_selector("[data-code]:has-text('blue')")
    squares = """() => {
      const over = document.querySelector(".stage canvas.over"), pixels = over.getContext("2d").getImageData(0, 0, over.width, over.height).data;
      let found = 0;
      for (let i = 3; i < pixels.length; i += 4) if (pixels[i] === 255) found++;
      return found;
    }"""
    page.click("text=Names")  # nothing else is drawn above the points

    def drawn(fits):
        """How many pixels there are, as soon as that fits."""
        for _ in range(100):
            if fits(found := page.evaluate(squares)):
                return found
            page.wait_for_timeout(50)
        raise AssertionError(f"{found} pixels")

    drawn(lambda n: n == 0)
    page.click("text=Density")
    whole = drawn(lambda n: n > 0)
    page.locator("[data-code]:has-text('blue')").press("Enter")
    drawn(lambda n: 0 < n < whole)
    page.click("text=Density")
    drawn(lambda n: n == 0)
