"""The data card of a set, from its page and from what was built."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from amodal import modalities
from amodal.data.dataset import Dataset

if TYPE_CHECKING:
    from amodal.data.sets import Page


def card(dataset: Dataset, source: Page) -> str:
    """The README.md of a set.

    Args:
        dataset: as it was built.
        source: its page.
    """
    first, _, rest = (inspect.getdoc(source) or "").partition("\n")
    lines = [
        f"# {dataset.name}: {first.rstrip('.')}",
        "",
        *rest.strip().splitlines(),
        "",
        f"{len(dataset):,} records.",
    ]
    lines += ["", "| field | kind | records that have it |", "|---|---|---|"]
    for name, modality in dataset.fields.items():
        lines.append(
            f"| `{name}` | {modalities.name_of(modality)} | {int(dataset.present(name).sum()):,} |"
        )
    if dataset.labels:
        lines += [
            "",
            "| label, for evaluation only | kind | records that have it | values |",
            "|---|---|---|---|",
        ]
    for name, label in dataset.labels.items():
        known = [v for v in dataset.label(name).tolist() if v is not None and v == v]
        values = (
            f"{min(known):g} to {max(known):g}"
            if label.kind == "number" and known
            else f"{len(set(known))}"
        )
        lines.append(f"| `{name}` | {label.kind} | {len(known):,} | {values} {label.unit} |")
    parts = {part: len(dataset.split(part)) for part in ("train", "valid", "test")}
    schema = dataset.schema
    rule = f"by `{schema.split_by}`" if schema.split_by else "by hash of the key"
    rule = "as the source has it" if schema.split else rule
    lines += [
        "",
        "**Split** " + rule + ": " + ", ".join(f"{n:,} {part}" for part, n in parts.items()) + ".",
    ]
    came = "; ".join(str(p) for p in source.PACKAGES) or "generated, nothing is downloaded"
    lines += ["", f"**Source.** {came}.", "", f"**Licence.** {source.LICENCE}.", ""]
    return "\n".join(lines)
