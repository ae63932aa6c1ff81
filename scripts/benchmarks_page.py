"""Write docs/benchmarks.md from what `python -m benchmarks` has left in benchmarks/results.

    python scripts/benchmarks_page.py

What stands above the first line of numbers is written by hand and kept.
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- written by scripts/benchmarks_page.py from benchmarks/results -->"
HEADINGS = (
    "what",
    "peer",
    "speed",
    "range",
    "ours ms",
    "peer ms",
    "memory",
    "ours MiB",
    "peer MiB",
    "of the limit",
    "goal",
)


def numbers() -> str:
    """A section for each benchmark: where and when it was measured, its table, its picture."""
    import sys

    sys.path.insert(0, str(ROOT))
    from benchmarks import _results

    return "\n".join(section(entry) for entry in _results.read(RESULTS))


def section(entry: dict) -> str:
    of = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
    limits = ", ".join(f"{value:g} {name}" for name, value in entry["limits"].items())
    lines = [f"## {entry['name']}\n", f"{entry['about']}\n"]
    lines += [
        f"*{entry['date'][:10]}, commit {entry['commit']}, {entry['machine']}, {limits}; {of}.*\n"
    ]
    lines += [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    lines += [f"| {' | '.join(cells(row))} |" for row in entry["rows"]]
    lines += [
        "",
        *(
            f"{note}\n"
            for note in dict.fromkeys(row["note"] for row in entry["rows"] if "note" in row)
        ),
    ]
    if (RESULTS / f"{entry['name']}.png").exists():
        lines.append(f"![{entry['name']}](../benchmarks/results/{entry['name']}.png)\n")
    return "\n".join(lines)


def cells(row: dict) -> list[str]:
    def number(key: str, form: str) -> str:
        return form.format(row[key]) if key in row else ""

    limit = number("share", "{:.0%} ") + row.get("limit", "") if "share" in row else ""
    missed = "goal" in row and row.get("speed", 0) < row["goal"]
    return [
        row["what"],
        row.get("peer", ""),
        number("speed", "**{:.2f}x**"),
        " … ".join(f"{ratio:.2f}" for ratio in row.get("spread", ())),
        number("ours_ms", "{:.4g}"),
        number("peer_ms", "{:.4g}"),
        number("memory", "{:.1f}x"),
        number("ours_mib", "{:.1f}"),
        number("peer_mib", "{:.1f}"),
        limit,
        number("goal", "{:g}x") + (", missed" if missed else ""),
    ]


def written(text: str) -> str:
    return text[: text.index(BEGIN)] + BEGIN + "\n\n" + numbers()


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
