"""Write docs/rows.md: how far each row of the catalogue is, and what the open ones lack.

    python scripts/rows_table.py

What is missing stands on the page of the row, in the line "open" of `Differs:`. A test keeps the
table in step with the catalogue and the pages.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from amodal import catalog

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "rows.md"
OPEN = re.compile(r"^- open: (.*?)\.\s+Waits\s+for\s+([^.]*)\.$", re.M | re.S)
HEAD = """# How far the rows are

Written by `scripts/rows_table.py` from `amodal/catalog.toml` and from what the pages say under `Differs:`. A row has **loss** where a golden test of its whole page (of
a row without a training page: its statistic or reader) agrees with an independent computation and at least 90 % of its mutants are noticed. It has **system** where the
paper's kind of encoder, of data, its recipe (where that is known: the page says so where authors published none, or it could not be read) and its product can be had by verbs, and its page says
what is otherwise. Whether it **learns**, and
whether the paper's claim comes out, stands in [results](results.md).
"""


def docstring(row: catalog.Row) -> str:
    """Of the page of a row that is done."""
    return ast.get_docstring(ast.parse((catalog.ROOT / row.home).read_text(encoding="utf-8"))) or ""


def missing(row: catalog.Row) -> tuple[str, str]:
    """What a row lacks and what it waits for; empty where its page has no line about it."""
    found = OPEN.search(docstring(row))
    return (" ".join(found[1].split()), " ".join(found[2].split())) if found else ("", "")


def is_open(row: catalog.Row) -> bool:
    return row.status == "done" and "no" in (row.loss, row.system)


def written() -> str:
    done = [row for row in catalog.rows() if row.status == "done"]
    open_rows = [row for row in done if is_open(row)]
    planned = sum(row.status == "planned" for row in catalog.rows())
    lines = [
        HEAD,
        f"Of {len(catalog.rows())} rows {len(done)} are done, of which {len(done) - len(open_rows)} "
        f"have both; {planned} are planned.\n",
        "## Open\n",
        "| row | loss | system | what is missing | waits for |",
        "|---|---|---|---|---|",
    ]
    for row in open_rows:
        what, waits = missing(row)
        cells = (f"{row.row} `{row.key}`", row.loss, row.system, what, waits)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    both = ", ".join(f"`{row.key}`" for row in done if row not in open_rows)
    lines += ["", "## Both", "", f"{both}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
