"""Write what the ledger holds: one line into README.md, every comparison into docs/results.md,
sorted by what can be believed.

    python scripts/claims_table.py

A test keeps both in step with the ledger.
"""

from pathlib import Path

import amodal_claims as claims

ROOT = Path(__file__).parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"
BEGIN, END = "<!-- claims: written by scripts/claims_table.py -->", "<!-- end of claims -->"
PILOTED = {
    "reproduced": "Reproduced",
    "not reproduced": "Not reproduced: the opposite was seen, or an effect of interest is excluded",
    "inconclusive": "Inconclusive",
    "no power": "No power: the control learns too little, or the seeds find too little",
}
EARLIER = "Without a pilot"
OF_THE_EARLIER = (
    "Measured before claims had pilots: 5 seeds, no floors, as good as the worst comparison. The last "
    "column says what effect the seeds would have found; nothing says that the arms "
    "had learnt enough to be compared."
)


def entries() -> list[dict]:
    return [claims.recorded(key).entry for key in claims.names() if claims.recorded(key)]


def by_belief() -> dict[str, list[dict]]:
    """Section of the page -> entries."""
    of = {
        title: [e for e in entries() if "plan" in e and e["verdict"] == v]
        for v, title in PILOTED.items()
    }
    return of | {EARLIER: [e for e in entries() if "plan" not in e]}


def interval(finding: dict) -> str:
    low, high = finding["interval"]
    return f"{finding['effect']:+.3f} ({low:+.3f} … {high:+.3f})"


def smallest(entry: dict) -> str:
    """The effect that the seeds find in the first comparison, and the one of interest."""
    if not entry["measured"]:
        return ""
    if "plan" in entry:
        return f"{entry['detectable']:.3f} of {entry['plan']['interest']:g}"
    return f"{claims.found_by(claims.comparisons(claims.page(entry['key']))[0], entry['measured']):.3f}"


def sentence() -> str:
    """What the ledger says, in one line."""
    counted = {title: len(found) for title, found in by_belief().items()}
    with_pilot = sum(n for title, n in counted.items() if title != EARLIER)
    named = [f"{counted[title]} {verdict}" for verdict, title in PILOTED.items()]
    return (
        f"Of {len(entries())} claims of papers, {with_pilot} were run again with a pilot of the control "
        f"and floors: {', '.join(named)}; {counted[EARLIER]} were measured before. "
        "[Results](docs/results.md), and [what to make of them](docs/claims.md)."
    )


def results() -> str:
    """The whole ledger as a page."""
    parts = [
        "# Every comparison of every claim\n",
        "Written by `scripts/claims_table.py` from `claims/amodal_claims/ledger`; how to read it, and what to make of the "
        "numbers, is in [claims](claims.md). Sorted by what can be believed.\n",
    ]
    for title, found in by_belief().items():
        if not found:
            continue
        parts.append(f"## {title}\n")
        if title == EARLIER:
            parts.append(f"{OF_THE_EARLIER}\n")
        parts += [
            "| claim | comparison that decides | effect, 95 % interval | detectable |"
            if title != EARLIER
            else "| claim | first comparison | effect, 95 % interval | detectable |",
            "|---|---|---|---|",
        ]
        for entry in found:
            first = entry["findings"][0] if entry["findings"] else None
            what = f"{first['what']} ({first['metric']})" if first else entry["reason"]
            number = interval(first) if first else ""
            parts.append(
                f"| [`{entry['key']}`](#{entry['key']}) | {what} | {number} | {smallest(entry)} |"
            )
        parts.append("")
    for found in by_belief().values():
        for entry in found:
            parts += [*one(entry), ""]
    return "\n".join(parts)


def one(entry: dict) -> list[str]:
    """The part of the page about a claim."""
    time = f"{entry['seeds']} seeds, {entry['seconds']} s, {entry['data']['name']}, {entry['date']}"
    title = f"## {entry['key']}\n"
    parts = [title, f"**{entry['verdict']}.** {entry['claim']} ({time})\n"]
    if "plan" in entry:
        steps = ", ".join(str(p["steps"]) for p in entry["plan"]["pilots"])
        parts.append(f"Pilot at {steps} steps. {entry['reason']}.\n")
    if entry["findings"]:
        parts += [
            "| comparison | metric | this | against | effect, 95 % interval | verdict |",
            "|---|---|---|---|---|---|",
        ]
    for f in entry["findings"]:
        numbers = f"{f['this']:.3f} | {f['against']:.3f} | {interval(f)}"
        parts.append(f"| {f['what']} | {f['metric']} | {numbers} | {f['verdict']} |")
    if (claims.LEDGER / f"{entry['key']}.png").exists():
        parts.append(f"\n![{entry['key']}](../claims/amodal_claims/ledger/{entry['key']}.png)")
    return parts


def written(text: str) -> str:
    """README's text with the line as the ledger has it."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{sentence()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    RESULTS.write_text(results(), encoding="utf-8")
