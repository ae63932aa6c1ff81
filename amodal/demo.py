"""`amodal demo`: the whole job on the Earth, in minutes: pretrain, measure, embed, draw, search."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from amodal import data as records
from amodal.console import stdout
from amodal.evaluate import Embedded, Result
from amodal.evaluate import figures as _figures
from amodal.evaluate.contact_sheet import retrieval_sheet
from amodal.evaluate.protocols.cross_modal_transfer import cross_modal_transfer
from amodal.evaluate.protocols.linear import linear
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.model import Model, load
from amodal.train.pretrain import pretrain

STEPS_A_MINUTE = 200  # of the encoder below, on two cores
FEW = 10  # labels of each class that a probe gets

# what is asked of the encoder: words, the protocol's result, and the row of it
QUESTIONS = [
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
    ("tell sea temperature from colour", "sst", {"source": "colour", "metric": "R2"}),
    ("tell sea temperature from place names", "sst", {"source": "places", "metric": "R2"}),
    (
        f"tell the climate zone from colour, {FEW} labels a zone",
        "zone",
        {"source": "colour", "metric": "accuracy"},
    ),
    (
        f"tell the climate zone from place names, {FEW} labels a zone",
        "zone",
        {"source": "places", "metric": "accuracy"},
    ),
    (
        "zones labelled on colour, told from place names",
        "transfer",
        {"source": "colour", "target": "places", "metric": "accuracy"},
    ),
    (
        "zones labelled on colour, told from relief",
        "transfer",
        {"source": "colour", "target": "relief", "metric": "accuracy"},
    ),
]


def demo(out: Path, *, minutes: float = 3.0, seed: int = 0) -> None:
    """Pretrain on the bundled Earth and write a run folder with pictures; a run that is there
    already is gone on with."""
    say = stdout()
    dataset = records.open("globe")
    say.print(
        f"[bold]The Earth[/]: {len(dataset):,} tiles of 3 degrees, no labels in training. What each tile has:"
    )
    for field, modality in dataset.fields.items():
        share = dataset.present(field).mean()
        say.print(f"  {field:<8} {modality.kind:<7} {share:4.0%} of tiles", highlight=False)
    pretrain(
        "clip",
        dataset,
        out,
        size="nano",
        steps=max(10, round(minutes * STEPS_A_MINUTE)),
        seed=seed,
        resume=(out / "config.json").exists(),
    )
    model = load(out)
    with say.status("embedding and measuring …"):
        seen, before = (
            {part: m.embed(dataset, part=part) for part in ("train", "test")}
            for m in (model, model.untrained())
        )
        trained, untrained = measure(**seen), measure(**before)
    say.print(table(trained, untrained))
    with say.status("drawing …"):
        pictures = draw(model, dataset, seen["test"], out / "figures")
    for path, what in pictures.items():
        say.print(f"{path}  [dim]{what}[/]", highlight=False, soft_wrap=True)
    say.print(
        f"\nNext:\n  amodal index {out} --data globe\n  amodal search {out} --query places='Norway; Troms; Tromso' --sheet found.png\n"
        "  amodal init YOUR_FOLDER && amodal pretrain clip --data YOUR_FOLDER --out runs/mine",
        highlight=False,
    )


def measure(train: Embedded, test: Embedded) -> dict[str, Result]:
    return {
        "retrieval": retrieval(train, test),
        "sst": linear(train, test, label="sst", sources=["colour", "places"]),
        "zone": linear(train, test, label="zone", few=FEW),
        "transfer": cross_modal_transfer(train, test, label="zone"),
    }


def table(trained: dict[str, Result], untrained: dict[str, Result]) -> Table:
    shown = Table(
        title="On tiles that it never saw, in 15-degree blocks that it never saw",
        title_justify="left",
    )
    for heading, justify in (
        ("task", "left"),
        ("measure", "left"),
        ("chance", "right"),
        ("untrained", "right"),
        ("trained", "right"),
    ):
        shown.add_column(heading, justify=justify)
    for words, protocol, wanted in QUESTIONS:
        after, prior = row(trained[protocol], wanted), row(untrained[protocol], wanted)
        best = after["value"] > max(prior["value"], after["chance"])
        shown.add_row(
            words,
            wanted["metric"],
            f"{after['chance']:.2f}",
            f"{prior['value']:.2f}",
            f"[bold]{after['value']:.2f}[/]" if best else f"{after['value']:.2f}",
        )
    return shown


def row(result: Result, wanted: dict) -> dict:
    return next(r for r in result.rows if all(r.get(k) == v for k, v in wanted.items()))


def draw(model: Model, dataset, test: Embedded, folder: Path) -> dict[Path, str]:
    """file -> what is on it."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = model.embed(dataset)
    pictures = {
        _figures.curves(
            model.path, folder / "training.png"
        ): "loss, and how many dimensions each field uses",
        _figures.world_map(
            everything, folder / "earth.png"
        ): "every tile where it lies; alike in colour = alike to the encoder",
        _figures.embedding_map(
            test, folder / "zones.png", label="zone"
        ): "unseen tiles by climate zone, which training never saw",
    }
    for field, words in (("places", "five place names"), ("relief", "five relief maps")):
        sheet = retrieval_sheet(
            test, dataset, folder / f"{field}.png", source=field, target="colour"
        )
        pictures[sheet] = f"{words}, and the pictures found for each"
    return pictures
