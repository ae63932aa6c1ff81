"""The gallery of `amodal view` in a real browser. Skipped where there is none."""

import shutil
from pathlib import Path

import pytest

import amodal
from amodal import data as records
from amodal.serve import app
from amodal.serve.view import router
from tests.serve.runs import RECORDS, data, running
from tests.serve.test_view_browser import browser, page  # noqa: F401

PAGE = "[role=tabpanel][data-tab=gallery]"


@pytest.fixture()
def address(model, tmp_path):
    """Of a copy of the run, whose tags are of one test."""
    shutil.copytree(model.path, tmp_path / "told")
    made = app(model)
    made.include_router(
        router(tmp_path / "told", service=made.state.service, dataset=model.read(data()))
    )
    with running(made) as port:
        yield f"http://127.0.0.1:{port}/"


def total(page, number):  # noqa: F811
    page.wait_for_selector(f"#sum[data-total='{number}']")


def test_filter_sort_select_and_tag_by_the_keyboard(page, address):  # noqa: F811
    page.goto(f"{address}#gallery")
    page.wait_for_selector(".tiles img")
    total(page, RECORDS)
    page.focus("[data-facet='label:colour'] summary")
    page.keyboard.press("Enter")
    page.get_by_label("blue").press("Space")
    total(page, RECORDS // 2)
    page.focus("text=What the data say")
    page.keyboard.press("Enter")
    page.focus("[data-facet='data:cells.age'] summary")
    page.keyboard.press("Enter")
    page.get_by_label("most of cells.age").fill("8")
    page.keyboard.press("Tab")
    total(page, 4)
    page.select_option("label:has-text('Sort by') select", "data:cells.age")
    page.click("text=Largest first")
    page.wait_for_selector(".tiles li:first-child[data-number='7']")
    page.focus(".tile")
    for key in ("x", "ArrowRight", "ArrowRight", "x", "Home", "End"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.textContent").startswith("1"), "the last one"
    assert page.get_attribute("#amount", "data-selected") == "2"
    page.get_by_label("tag", exact=True).fill("<b>odd</b>")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status >> text=Tagged 2 of 2 records")
    assert page.locator(".marks span").all_inner_texts() == ["<b>odd</b>", "<b>odd</b>"]
    page.reload()
    total(page, 4)
    assert page.locator(".marks span").count() == 2, "filters and tags survive"
    page.click("text=Clear all filters")
    total(page, RECORDS)
    page.click("summary:has-text('Tags, and training')")
    with page.expect_download() as saved:
        page.click("text=CSV of keys")
    assert Path(saved.value.path()).read_text(encoding="utf-8").split() == ["record", "3", "7"]
    page.click("text=Train without these")
    page.wait_for_selector("#status >> text=these records are in memory")
    page.click(".tags button:text-is('Show')")
    total(page, 2)
    page.click("text=Delete")
    page.click("text=Delete it for good")
    total(page, 0)
    page.wait_for_selector(".tiles >> text=No record passes these filters.")


def test_a_record_opens_and_closes_by_the_keyboard(page, address):  # noqa: F811
    page.goto(f"{address}#gallery")
    page.wait_for_selector(".tiles img")
    page.focus(".tile")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] [data-number='1'] audio")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("dialog[open] [data-number='2']")
    page.keyboard.press("Escape")
    page.wait_for_selector("[data-number='2'] .tile:focus")


@pytest.mark.parametrize(
    "field, inside", [("text", ".words"), ("cells", ".words"), ("curve", "svg")]
)
def test_tiles_of_every_kind(page, address, field, inside):  # noqa: F811
    page.goto(f"{address}#gallery")
    page.wait_for_selector(".tiles img")
    page.select_option("label:has-text('Show') select", field)
    page.wait_for_selector(f".tiles li:first-child .picture {inside}")


def test_selections_of_other_tabs_open_in_the_gallery(page, address):  # noqa: F811
    page.goto(address)
    page.wait_for_selector(f".stage[data-points='{RECORDS}']")
    page.click("text=Select what is in view")
    page.click("text=Show in the gallery")
    page.wait_for_selector(f"{PAGE} #sum >> text={RECORDS} of a selection on the map")
    page.click("text=Show all records")
    page.click("[data-tab=search]")
    page.fill("#q-text", "a thing, number 7")
    page.press("#q-text", "Enter")
    page.click("[data-field=text] >> text=In the gallery")
    page.wait_for_selector(f"{PAGE} #sum >> text=12 of a search by text")
    assert page.get_attribute(".tiles li >> nth=0", "data-number") == "7", "in its order"
    page.click("[data-tab=records]")
    page.click("[data-list=outliers] >> text=Show in the gallery")
    page.wait_for_selector(f"{PAGE} #sum >> text={RECORDS} of unlike all others")


def test_all_that_pass_a_filter_are_selected(page, address):  # noqa: F811
    page.goto(f"{address}#gallery")
    page.wait_for_selector(".tiles img")
    page.fill("input[placeholder='a part of the name']", "2")
    page.keyboard.press("Tab")
    total(page, 6)
    page.click("text=Select all")
    assert page.get_attribute("#amount", "data-selected") == "6"
    with page.expect_download() as saved:
        page.click("text=Save as CSV")
    lines = Path(saved.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "record,split,colour" and len(lines) == 7
    page.click("text=Select none")
    page.click("text=Save as CSV")
    page.wait_for_selector("#status >> text=nothing is selected")


NASTY = "<img src=x onerror=\"document.title='owned'\">"


def test_records_labels_and_tags_of_markup_stay_text(page, tmp_path):  # noqa: F811
    columns = {
        "key": [f"{i} {NASTY}" for i in range(24)],
        "text": [f"{NASTY} number {i}" for i in range(24)],
        "cells": [{"a": float(i % 5), NASTY: NASTY if i % 2 else "b"} for i in range(24)],
        "zone": [NASTY, "plain"] * 12,
    }
    dataset = records.open(columns)
    options = {"size": "nano", "steps": 1, "batch": 8, "progress": False}
    model = amodal.pretrain("clip", dataset, tmp_path / "run", **options)
    model.index(dataset)
    made = app(model)
    made.include_router(router(model.path, service=made.state.service, dataset=dataset))
    with running(made) as port:
        page.goto(f"http://127.0.0.1:{port}/#gallery")
        page.wait_for_selector(".tiles .words")
        total(page, 24)
        assert NASTY in page.inner_text(".tiles li >> nth=0")
        page.select_option("label:has-text('Show') select", "cells")
        page.wait_for_selector(".tiles .words >> text=<img")
        for facet in page.locator("details[data-facet]").all():
            if facet.is_visible() and facet.get_attribute("open") is None:
                facet.locator("summary").click()
        page.locator(".facet [data-value^='<img'] input").first.check()
        page.wait_for_selector("#sum:not([data-total='24'])")
        page.click("text=Select all")
        page.get_by_label("tag", exact=True).fill(NASTY[:60])
        page.keyboard.press("Enter")
        page.wait_for_selector(".marks")
        page.click("summary:has-text('Tags, and training')")
        page.wait_for_selector(".tags th >> text=<img")
        page.click(".tile >> nth=0")
        page.wait_for_selector("dialog[open] .card")
        page.keyboard.press("Escape")
        page.click("[data-tab=map]")
        page.wait_for_selector(".legend.filters >> text=<img")
        assert page.locator("img[src=x]").count() == 0 and page.title() != "owned"


def test_a_range_is_dragged_on_a_histogram_and_brushes_the_others(page, address):  # noqa: F811
    page.goto(f"{address}#gallery")
    total(page, RECORDS)
    page.click("[data-facet='label:colour'] summary")
    page.click("text=What the data say")
    page.click("[data-facet='data:cells.age'] summary")
    histogram = page.locator("[data-facet='data:cells.age'] .histogram")
    histogram.locator("[data-count='1']").first.wait_for(state="attached")
    box = histogram.bounding_box()

    def drag(start, end):
        page.mouse.move(box["x"] + start * box["width"], box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + end * box["width"], box["y"] + 20, steps=4)
        page.mouse.up()

    drag(0.48, 0.999)
    total(page, RECORDS // 2)
    assert float(page.get_by_label("least of cells.age").input_value()) == pytest.approx(
        11, abs=0.5
    )
    blue = page.locator("[data-facet='label:colour'] label[data-value='blue'] span:last-child")
    blue.filter(has_text=f"{RECORDS // 4}").wait_for()
    page.get_by_label("blue").press("Space")
    total(page, RECORDS // 4)
    page.wait_for_selector("[data-facet='data:cells.age'] [data-count='0']", state="attached")
    assert histogram.locator("[data-count='1']").count() == RECORDS // 2, "blue ones of all ages"
    drag(0.5, 0.5)
    total(page, RECORDS // 2)
    assert page.get_by_label("least of cells.age").input_value() == ""
