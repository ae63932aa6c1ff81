"""Write what the ledger holds: a line a claim into README.md, every comparison into
docs/results.md.

    python scripts/claims_table.py

A test keeps both in step with the ledger.
"""

from collections import Counter
from pathlib import Path

import amodal_claims as claims

from amodal import catalog

ROOT = Path(__file__).parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"
BEGIN, END = "<!-- claims: written by scripts/claims_table.py -->", "<!-- end of claims -->"


def entries() -> list[dict]:
    return [claims.recorded(key).entry for key in claims.names() if claims.recorded(key)]


def interval(finding: dict) -> str:
    low, high = finding["interval"]
    return f"{finding['effect']:+.3f} ({low:+.3f} … {high:+.3f})"


def verdicts(entry: dict) -> str:
    """How many of the comparisons came out how."""
    counted = Counter(f["verdict"] for f in entry["findings"])
    return ", ".join(f"{counted[v]} {v}" for v in claims.VERDICTS if counted[v])


def table() -> str:
    """One line a claim: its first comparison, and how all of them came out."""
    lines = [
        "| claim | row | first comparison | effect, 95 % interval | all comparisons |",
        "|---|---|---|---|---|",
    ]
    for entry in entries():
        row, first = catalog.find(entry["key"]), entry["findings"][0]
        what = f"{first['what']} ({first['metric']}: {first['this']:.3f} against {first['against']:.3f})"
        number = getattr(row, "row", None) or ""
        lines.append(
            f"| `{entry['key']}` | {number} | {what} | {interval(first)} | {verdicts(entry)} |"
        )
    return "\n".join(lines)


def results() -> str:
    """The whole ledger as a page."""
    parts = [
        "# Every comparison of every claim\n",
        "Written by `scripts/claims_table.py` from `claims/amodal_claims/ledger`; what to make of the numbers is in [claims](claims.md).\n",
    ]
    for entry in entries():
        time = f"{entry['seeds']} seeds, {entry['seconds']} s, {entry['data']['name']}, {entry['date']}"
        parts += [f"## {entry['key']}: {entry['verdict']}\n", f"{entry['claim']} ({time})\n"]
        parts += [
            "| comparison | metric | this | against | effect, 95 % interval | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for f in entry["findings"]:
            numbers = f"{f['this']:.3f} | {f['against']:.3f} | {interval(f)}"
            parts.append(f"| {f['what']} | {f['metric']} | {numbers} | {f['verdict']} |")
        if (claims.LEDGER / f"{entry['key']}.png").exists():
            parts.append(f"\n![{entry['key']}](../claims/amodal_claims/ledger/{entry['key']}.png)")
        parts.append("")
    return "\n".join(parts)


def written(text: str) -> str:
    """README's text with the table as the ledger has it."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
    RESULTS.write_text(results())
