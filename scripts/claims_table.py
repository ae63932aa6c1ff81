"""Write the claims table of README.md from the ledger: `python scripts/claims_table.py` (a test keeps the two in step)."""

from pathlib import Path

from amodal import claims

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- claims: written by scripts/claims_table.py -->", "<!-- end of claims -->"


def table() -> str:
    lines = ["| claim | comparison | effect, 95 % interval | seeds | verdict |", "|---|---|---|---|---|"]
    for key in claims.names():
        record = claims.recorded(key)
        if record is None:
            continue
        for i, f in enumerate(record.entry["findings"]):
            low, high = f["interval"]
            name = f"`{key}`" if i == 0 else ""
            lines.append(
                f"| {name} | {f['what']} ({f['metric']}: {f['this']:.3f} against {f['against']:.3f}) "
                f"| {f['effect']:+.3f} ({low:+.3f} … {high:+.3f}) | {record.entry['seeds']} | {f['verdict']} |"
            )
    return "\n".join(lines)


def written(text: str) -> str:
    """README's text with the table as the ledger has it."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
