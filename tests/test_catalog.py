"""The catalogue and the pages agree."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import amodal_claims as claims
import pytest
from rich.console import Console

from amodal import catalog, methods
from amodal.core import AmodalError

TESTS = Path(__file__).parent


def printed(thing) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(thing)
    return console.export_text()


def test_there_are_202_rows_numbered_in_order_with_names_of_their_own():
    assert [r.row for r in catalog.rows()] == list(range(1, 203))
    keys = [r.key for r in (*catalog.rows(), *catalog.general())]
    assert len(set(keys)) == len(keys) and all(k.isidentifier() for k in keys)
    assert all(r.status in catalog.STATUSES and r.title and r.family for r in catalog.rows())


def test_a_row_that_is_done_has_page_test_claim_and_ledger_entry():
    tests = {file: file.read_text(encoding="utf-8") for file in TESTS.rglob("test_*.py")}
    contract = any(
        "methods.names()" in text or "names()" in text
        for file, text in tests.items()
        if file.parent.name == "methods"
    )
    for row in catalog.rows():
        if row.status != "done":
            continue
        assert row.home and (catalog.ROOT / row.home).is_file(), (
            f"{row.key}: no page at {row.home!r}"
        )
        in_contract = contract and row.key in catalog.pages()
        assert in_contract or any(row.key in text for text in tests.values()), (
            f"{row.key}: no test names it"
        )
        assert row.key in claims.names(), f"{row.key}: no claim"
        assert catalog.verdict(row.key), f"{row.key}: its claim is not in the ledger"


def test_the_bar_is_claimed_only_with_what_it_asks_for():
    noticed = tomllib.loads((TESTS / "golden" / "mutants.toml").read_text(encoding="utf-8"))
    for row in (*catalog.rows(), *catalog.general()):
        assert {row.loss, row.system} <= {"yes", "no"} and row.learns in ("yes", "no", ""), row.key
        assert row.evidence in ("", *catalog.EVIDENCE), row.key
        page = catalog.pages().get(row.key)
        if row.loss == "yes" and page is not None:
            assert (TESTS / "golden" / f"test_{row.key}.py").exists(), row.key
            assert noticed.get(row.key, 0) >= 90, f"{row.key}: mutants are not noticed"
        text = page.docstring if page is not None else ""
        if page is None and row.home:
            text = (catalog.ROOT / row.home).read_text(encoding="utf-8")
        if row.system == "yes":
            assert "Differs" in text, f"{row.key}: what is not as in the paper?"
        if row.learns:
            assert re.search(r"Learns.*\.\d\d", text, re.S), f"{row.key}: where are the figures?"
    assert noticed.keys() <= catalog.pages().keys()


def test_open_rows_say_what_is_missing_and_the_table_has_it():
    sys.path.insert(0, str(TESTS.parent / "scripts"))
    import rows_table

    for row in catalog.rows():
        if row.status == "done":
            what, waits = rows_table.missing(row)
            assert bool(what and waits) == rows_table.is_open(row), (
                f"{row.key}: an open row has a line '- open: … Waits for …', and no other has one"
            )
    assert rows_table.PAGE.read_text(encoding="utf-8") == rows_table.written(), (
        "run: python scripts/rows_table.py"
    )


def test_every_page_is_in_the_catalogue_and_every_home_is_there():
    for name, page in catalog.pages().items():
        row = catalog.find(name)
        assert row is not None, f"{name} is neither a row nor a general method"
        assert not row.home or catalog.ROOT / row.home == page.file
    for row in (*catalog.rows(), *catalog.general()):
        assert not row.home or (catalog.ROOT / row.home).is_file(), (
            f"{row.key}: nothing at {row.home}"
        )


def test_pages_are_the_methods_and_what_is_read_of_them_is_what_python_sees():
    assert sorted(catalog.pages()) == methods.names()
    for name, page in catalog.pages().items():
        seen = methods.options(name)
        assert [o[0] for o in page.options] == list(seen)
        assert all(eval(default) == seen[n].default for n, _, default, _ in page.options)
        assert all(description for *_, description in page.options), (
            f"{name}: an option is not explained in its docstring"
        )
        assert page.encoder == methods.encoder_options(name)
        assert "arXiv" in page.citation, f"{name}: the docstring names no paper"
        assert page.parts


def test_listing_and_pages():
    text = printed(catalog.listing())
    assert all(name in text for name in methods.names())
    assert "Wang et al., ECCV 2024, arXiv:2309.05300" in text
    decur = printed(catalog.shown("decur"))
    assert (
        "off_diagonal" in decur
        and "0.0051" in decur
        and "Row 2" in decur
        and "Claim: " in decur
        and "amodal.objectives.decur" in decur
    )
    assert "trunk = joint" in printed(catalog.shown("zorro"))
    assert printed(catalog.shown("2")) == decur and printed(catalog.shown("barlow-twins"))
    assert "def decur(" in printed(catalog.shown("decur", source=True))


def test_a_row_that_is_no_method_says_where_it_is_and_what_came_out():
    text = printed(catalog.shown("pid_semisup"))
    assert "amodal/diagnose/pid_semisup.py" in text and catalog.verdict("pid_semisup") in text
    assert "filter_ensembles" in printed(catalog.listing())
    assert "def " in printed(catalog.shown("jest", source=True))


def test_a_row_that_is_planned_says_so():
    row = next(r for r in catalog.rows() if r.key not in catalog.pages())
    text = printed(catalog.shown(row.key))
    assert f"{row.key} is {row.status}" in text and row.title[:40] in text


def test_an_unknown_key_offers_the_nearest():
    with pytest.raises(AmodalError, match="Did you mean decur"):
        catalog.shown("decurr")


def test_options_that_share_an_explanation():
    names = ["width", "low", "high"]
    expected = {
        "width": "of it",
        "low": "where (a: b) it starts and ends",
        "high": "where (a: b) it starts and ends",
    }
    line = "width: of it; low, high: where (a: b) it\nstarts and ends."
    assert catalog._descriptions(line, names) == expected
    section = """A method.

Args:
    encoder: to train.
    width: of it.
    low, high: where (a: b) it
        starts and ends.

Returns:
    The method; its width: is no option.
"""
    assert catalog._descriptions(section, ["encoder", *names]) == {"encoder": "to train"} | expected


def test_the_catalogue_does_not_wait_for_torch():
    code = "import sys; from amodal.catalog import *; listing(); shown('clip'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
