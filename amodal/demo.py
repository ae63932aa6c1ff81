"""`amodal demo`: pretrain, evaluate, embed, draw and search, on the bundled Earth in minutes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from amodal import data as records
from amodal.console import stdout
from amodal.data import Dataset
from amodal.evaluate import Embedded, Result
from amodal.evaluate import figures as _figures
from amodal.evaluate.contact_sheet import retrieval_sheet
from amodal.evaluate.protocols.cross_modal_transfer import cross_modal_transfer
from amodal.evaluate.protocols.linear import linear
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.model import Model, load
from amodal.train.pretrain import pretrain

STEPS_PER_MINUTE = 200
"""Of the encoder below, on two cores."""
FEW = 10
"""Labels of each class that a probe gets."""

# (description, key of the protocol's result, the row of it)
TASKS: list[tuple[str, str, dict[str, str]]] = [
    (
        "find the relief of a colour picture",
        "retrieval",
        {"source": "colour", "target": "relief", "metric": "recall@10"},
    ),
    (
        "find the colour picture of a relief",
        "retrieval",
        {"source": "relief", "target": "colour", "metric": "recall@10"},
    ),
    (
        "find the sea climate of a colour picture",
        "retrieval",
        {"source": "colour", "target": "climate", "metric": "recall@10"},
    ),
    (
        "find the colour picture of place names",
        "retrieval",
        {"source": "places", "target": "colour", "metric": "recall@10"},
    ),
    (
        "find the sea climate of place names",
        "retrieval",
        {"source": "places", "target": "climate", "metric": "recall@10"},
    ),
    ("predict sea temperature from colour", "sst", {"source": "colour", "metric": "R2"}),
    ("predict sea temperature from place names", "sst", {"source": "places", "metric": "R2"}),
    (
        f"predict the climate zone from colour, {FEW} labels a zone",
        "zone",
        {"source": "colour", "metric": "accuracy"},
    ),
    (
        f"predict the climate zone from place names, {FEW} labels a zone",
        "zone",
        {"source": "places", "metric": "accuracy"},
    ),
    (
        "zones labelled on colour, predicted from place names",
        "transfer",
        {"source": "colour", "target": "places", "metric": "accuracy"},
    ),
    (
        "zones labelled on colour, predicted from relief",
        "transfer",
        {"source": "colour", "target": "relief", "metric": "accuracy"},
    ),
]


def demo(out: Path, *, minutes: float = 3.0, seed: int = 0) -> None:
    """Pretrain on the bundled Earth and write a run folder with figures.

    Args:
        out: The run folder. An existing run is continued.
        minutes: About how long to train.
    """
    console = stdout()
    dataset = records.open("globe")
    console.print(
        f"[bold]The Earth[/]: {len(dataset):,} tiles of 3 degrees, no labels in training. "
        "Fields of a tile:"
    )
    for field, modality in dataset.fields.items():
        share = dataset.present(field).mean()
        console.print(f"  {field:<8} {modality.kind:<7} {share:4.0%} of tiles", highlight=False)
    pretrain(
        "clip",
        dataset,
        out,
        size="nano",
        steps=max(10, round(minutes * STEPS_PER_MINUTE)),
        seed=seed,
        resume=(out / "config.json").exists(),
    )
    model = load(out)
    with console.status("embedding and evaluating …"):
        vectors, baseline = (
            {part: m.embed(dataset, part=part) for part in ("train", "test")}
            for m in (model, model.untrained())
        )
        trained, untrained = measure(**vectors), measure(**baseline)
    console.print(table(trained, untrained))
    with console.status("drawing …"):
        figures = draw(model, dataset, vectors["test"], out / "figures")
    for path, caption in figures.items():
        console.print(f"{path}  [dim]{caption}[/]", highlight=False, soft_wrap=True)
    console.print(
        f"\nNext:\n  amodal view {out}\n  amodal index {out} --data globe\n"
        f"  amodal search {out} --query places='Norway; Troms; Tromso' --sheet found.png\n"
        "  amodal init YOUR_FOLDER && amodal pretrain clip --data YOUR_FOLDER --out runs/mine",
        highlight=False,
    )


def measure(train: Embedded, test: Embedded) -> dict[str, Result]:
    """The results of the protocols behind `TASKS`."""
    return {
        "retrieval": retrieval(train, test),
        "sst": linear(train, test, label="sst", sources=["colour", "places"]),
        "zone": linear(train, test, label="zone", few=FEW),
        "transfer": cross_modal_transfer(train, test, label="zone"),
    }


def table(trained: dict[str, Result], untrained: dict[str, Result]) -> Table:
    """A rich table of `TASKS`."""
    shown = Table(
        title="On held-out tiles, in held-out blocks of 15 degrees",
        title_justify="left",
    )
    for heading in ("task", "measure"):
        shown.add_column(heading)
    for heading in ("chance", "untrained", "trained"):
        shown.add_column(heading, justify="right")
    for description, protocol, wanted in TASKS:
        after, prior = row(trained[protocol], wanted), row(untrained[protocol], wanted)
        best = after["value"] > max(prior["value"], after["chance"])
        shown.add_row(
            description,
            wanted["metric"],
            f"{after['chance']:.2f}",
            f"{prior['value']:.2f}",
            f"[bold]{after['value']:.2f}[/]" if best else f"{after['value']:.2f}",
        )
    return shown


def row(result: Result, wanted: Mapping[str, str]) -> dict[str, Any]:
    """The first row of a result with these entries."""
    return next(r for r in result.rows if all(r.get(k) == v for k, v in wanted.items()))


def draw(model: Model, dataset: Dataset, test: Embedded, folder: Path) -> dict[Path, str]:
    """Draw all figures. Returns file -> caption."""
    assert model.path is not None, "it was loaded from its run folder"
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        _figures.curves(
            model.path, folder / "training.png"
        ): "loss, and effective rank of each field",
        _figures.world_map(
            model.embed(dataset), folder / "earth.png"
        ): "every tile at its place; similar colours = similar vectors",
        _figures.embedding_map(
            test, folder / "zones.png", label="zone"
        ): "held-out tiles by climate zone, which is not used in training",
    }
    for field, queries in (("places", "five place names"), ("relief", "five relief maps")):
        sheet = retrieval_sheet(
            test, dataset, folder / f"{field}.png", source=field, target="colour"
        )
        figures[sheet] = f"{queries}, and the retrieved images of each"
    return figures
