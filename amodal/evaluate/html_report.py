"""A report as one HTML file: the sentence, the tables with their intervals drawn, and pictures.

The page is a tree of elements, so every text in it is escaped when it is written. It loads nothing:
pictures are inside it, and it has no script.
"""

from __future__ import annotations

import base64
import json
import math
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, tostring

from amodal.evaluate import figures
from amodal.evaluate.drawing import COLOURS
from amodal.evaluate.report_table import COLUMNS, HEADLINES, number, shown_value
from amodal.evaluate.row import Row

if TYPE_CHECKING:
    from amodal.evaluate.result import Report

PALETTE = (COLOURS[0], COLOURS[4], COLOURS[1], COLOURS[3], COLOURS[2], COLOURS[7])
COLOUR = dict(zip(COLUMNS, PALETTE, strict=True))
NAMES = {column: column for column in COLUMNS} | {"value": "trained"}
WIDTH, LINE = 180, 7
"""Of a drawing and of one column in it, in pixels."""
USUAL_PARTS = "train; test"
PACKAGES = ("amodal", "torch", "numpy", "scipy", "scikit-learn")
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; --soft: #f5f5f5 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --paper: #181818; --line: #444; --soft: #242424 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1200px; margin: 2rem auto; padding: 0 1rem }
.summary { font-size: 1.15em; border-left: 4px solid #0072B2; padding: .4rem 1rem;
  background: var(--soft) }
.warning { border-left: 4px solid #D55E00; padding: .4rem 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9em; margin: .5rem 0 }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.interval { opacity: .65; font-size: .85em }
.best { font-weight: 600 }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: .85em }
img { max-width: 100% }
figure { margin: 1rem 0 }
.key span { margin-right: 1.2rem }
"""


def html_report(report: Report, *, pictures: bool = True) -> str:
    """A page of a report.

    Args:
        report: The report.
        pictures: Whether to draw the figures of its protocols.

    Returns:
        HTML.
    """
    about, rows = report.about, report.rows()
    root = Element("html", lang="en")
    head, body = SubElement(root, "head"), SubElement(root, "body")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    name = str(about.get("data", "evaluation"))
    _text(head, "title", f"{name}: evaluation")
    _text(head, "style", STYLE)
    _text(body, "h1", name)
    counts = [f"{about[part]:,} {part}" for part in ("train", "test") if part in about]
    if "left_out" in about:
        counts.append(f"{about['left_out']:,} left out that were trained on")
    if "subset" in about:
        counts.append(str(about["subset"]))
    if about.get("parts", USUAL_PARTS) != USUAL_PARTS:
        counts.append(f"parts: {about['parts']}")
    _text(body, "p", " · ".join(counts))
    if about.get("summary"):
        _text(body, "p", str(about["summary"]), {"class": "summary"})
    if about.get("warning"):
        _text(body, "p", f"warning: {about['warning']}", {"class": "warning"})
    _key(body, rows)
    for title, group in _grouped(rows).items():
        _text(body, "h2", title)
        heads = [row for row in group if row["metric"] in _headlines(row)]
        _table(body, heads or group)
        if heads and len(heads) < len(group):
            details = SubElement(body, "details")
            _text(details, "summary", f"all {len(group)} rows")
            _table(details, group, drawn=False)
    if pictures:
        _pictures(body, report)
    _notes(body, report)
    page = tostring(root, encoding="unicode", method="html")
    return "<!doctype html>\n" + page + "\n"


def _text(
    parent: Element, tag: str, text: str, attributes: Mapping[str, str] | None = None
) -> Element:
    element = SubElement(parent, tag, dict(attributes or {}))
    element.text = text
    return element


def _headlines(row: Row) -> Sequence[str]:
    from amodal.evaluate.protocol_registry import protocol_of_report

    # accuracy praises a guess of the most frequent class
    return (*(protocol_of_report(row["protocol"]).headlines or HEADLINES), "balanced accuracy")


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Protocol and label -> rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        label = f": {row['label']}" if row.get("label") else ""
        groups.setdefault(row["protocol"] + label, []).append(row)
    return groups


def _compared(rows: Iterable[Row]) -> list[str]:
    """The columns that any row has a value in."""
    return [c for c in COLUMNS if any(shown_value(row, c) is not None for row in rows)]


def _key(parent: Element, rows: Sequence[Row]) -> None:
    """What the colours of the drawings mean."""
    line = SubElement(parent, "p", {"class": "key"})
    for column in _compared(rows):
        mark = _text(line, "span", f"● {NAMES[column]}")
        mark.set("style", f"color: {COLOUR[column]}")
    if any("intervals" in row for row in rows):
        _text(line, "span", "lines: 95 % intervals", {"class": "interval"})


def _table(parent: Element, rows: Sequence[Row], *, drawn: bool = True) -> None:
    columns, scale = _compared(rows), _scales(rows)
    against = [c for c in columns if any(f"trained - {c}" in r.get("intervals", {}) for r in rows)]
    table = SubElement(SubElement(parent, "div", {"class": "wide"}), "table")
    line = SubElement(SubElement(table, "thead"), "tr")
    for heading in ("from", "to", "metric", *([""] if drawn else [])):
        _text(line, "th", heading)
    for heading in ("n", *(NAMES[c] for c in columns), *(f"trained - {c}" for c in against)):
        _text(line, "th", heading, {"class": "number"})
    body = SubElement(table, "tbody")
    for row in rows:
        line, intervals = SubElement(body, "tr"), row.get("intervals", {})
        detail = f" ({row['probe']})" if "probe" in row else ""
        for text in (row["source"], row.get("target", ""), row["metric"] + detail):
            _text(line, "td", str(text))
        if drawn:
            _drawing(SubElement(line, "td"), row, columns, scale[row["metric"]])
        _text(line, "td", f"{row['n']:,}" if row.get("n") is not None else "", {"class": "number"})
        for column in columns:
            interval = intervals.get(NAMES[column])
            _value(line, shown_value(row, column), interval)
        for column in against:
            apart = shown_value(row, column)
            gap = None if apart is None else row["value"] - apart
            _value(line, gap, intervals.get(f"trained - {column}"), signed=True)


def _value(
    line: Element,
    value: float | None,
    interval: Sequence[float] | None,
    *,
    signed: bool = False,
) -> None:
    """A cell. A difference whose interval excludes 0 is bold."""
    sign = "+" if signed and value is not None and value > 0 else ""
    cell = _text(line, "td", sign + number(value) if value is not None else "", {"class": "number"})
    if value is None or interval is None:
        return
    if signed and (interval[0] > 0 or interval[1] < 0):
        cell.set("class", "number best")
    _text(cell, "span", f" [{number(interval[0])}, {number(interval[1])}]", {"class": "interval"})


def _scales(rows: Iterable[Row]) -> dict[str, tuple[float, float]]:
    """Metric -> the ends of its axis: 0 and 1 where all values lie between them."""
    ends: dict[str, tuple[float, float]] = {}
    for row in rows:
        of_row = [v for c in COLUMNS if (v := shown_value(row, c)) is not None]
        of_row += [v for k, i in row.get("intervals", {}).items() if " - " not in k for v in i]
        low, high = ends.get(row["metric"], (0.0, 1.0))
        finite = [v for v in of_row if math.isfinite(v)]
        ends[row["metric"]] = min([low, *finite]), max([high, *finite])
    return ends


def _drawing(parent: Element, row: Row, columns: Sequence[str], scale: tuple[float, float]) -> None:
    """The values of a row as dots on one axis, with their intervals as lines."""
    low, high = scale
    shown = [c for c in columns if c != "chance"]
    height = LINE * len(shown) + 4
    drawing = SubElement(
        parent,
        "svg",
        width=str(WIDTH),
        height=str(height),
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
    )

    def place(value: float) -> str:
        return f"{4 + (WIDTH - 8) * (value - low) / (high - low):.1f}"

    def line(x: tuple[str, str], y: tuple[float, float], colour: str, **more: str) -> None:
        ends = {"x1": x[0], "x2": x[1], "y1": f"{y[0]:.1f}", "y2": f"{y[1]:.1f}"}
        SubElement(drawing, "line", ends | {"stroke": colour} | more)

    _text(drawing, "title", ", ".join(f"{NAMES[c]} {number(shown_value(row, c))}" for c in columns))
    line((place(low), place(high)), (height - 1, height - 1), "#999", opacity="0.5")
    chance = row.get("chance")
    if chance is not None and math.isfinite(chance):
        x = place(chance)
        line((x, x), (0, height), "#888", **{"stroke-dasharray": "2 2"})
    for place_of, column in enumerate(shown):
        value, y = shown_value(row, column), LINE * place_of + LINE / 2 + 1
        if value is None or not math.isfinite(value):
            continue
        if interval := row.get("intervals", {}).get(NAMES[column]):
            ends = place(interval[0]), place(interval[1])
            line(ends, (y, y), COLOUR[column], **{"stroke-width": "2.5", "opacity": "0.6"})
        SubElement(drawing, "circle", cx=place(value), cy=f"{y:.1f}", r="2.8", fill=COLOUR[column])


def _pictures(parent: Element, report: Report) -> None:
    """The figures of the report, inside the page."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = figures.report(report, Path(folder) / "report")
        if drawn:
            _text(parent, "h2", "Pictures")
        for path in drawn:
            title = path.name.removeprefix("report.").removesuffix(".png")
            figure = SubElement(parent, "figure")
            data = base64.b64encode(path.read_bytes()).decode()
            SubElement(figure, "img", src=f"data:image/png;base64,{data}", alt=title)
            _text(figure, "figcaption", title)


def _notes(parent: Element, report: Report) -> None:
    """What was skipped and why, how it was measured, and by what."""
    about = report.about
    if report.skipped:
        _text(parent, "h2", "Skipped")
        listed = SubElement(parent, "ul")
        for name, reason in report.skipped.items():
            _text(listed, "li", f"{name}: {reason}")
    _text(parent, "h2", "How it was measured")
    listed = SubElement(parent, "ul")
    for field, name in about.get("simple", {}).items():
        _text(listed, "li", f"simple features of {field}: {name}")
    for name, note in about.get("notes", {}).items():
        _text(listed, "li", f"{name}: {note}")
    if how := about.get("intervals"):
        groups = f", drawn as {how['groups']:,} groups" if "groups" in how else ""
        text = (
            f"95 % intervals: {how['method']}, {how['draws']:,} draws, seed {how['seed']}{groups}"
        )
        _text(listed, "li", text)
    unpaired = sorted({c for r in report.rows() for c in r.get("unpaired", ())})
    if unpaired:
        text = f"some differences from {', '.join(unpaired)} are those of two independent values"
        _text(listed, "li", text)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    _text(listed, "li", f"versions: Python {platform.python_version()}, {packages}")
    if "fingerprint" in about:
        _text(listed, "li", f"fingerprint of the data: {about['fingerprint']}")
    for result in report.results:
        details = SubElement(parent, "details")
        label = f", {result.spec['label']}" if result.spec.get("label") else ""
        _text(details, "summary", f"options of {result.protocol}{label}")
        _text(details, "pre", _json(result.spec))


def _json(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, indent=1, ensure_ascii=False, default=str)
