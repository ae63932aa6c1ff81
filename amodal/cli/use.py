"""Verbs that use a run: measure, embed, predict, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from amodal.cli.options import listed
from amodal.cli.shared import Data, Run, show


def predict(
    run: Run,
    data: Data,
    out: Annotated[
        Path,
        arg(metavar="FILE", help="a .csv or .parquet file: key, and what each label is told to be"),
    ],
    part: Annotated[str | None, arg(help="train, valid or test; all records unless given")] = None,
) -> None:
    """Tell the labels of records, by a run that `amodal adapt` made."""
    from amodal.adapt import write_predictions
    from amodal.model import load

    print(
        f"wrote what is told of {write_predictions(load(run), data, out, part=part)} records to {out}"
    )


def evaluate(
    run: Run,
    data: Data,
    label: Annotated[
        str | None,
        arg(
            metavar="FIELD",
            help="the label that knn, linear, … predict; of a survival time TIME,EVENT",
        ),
    ] = None,
    protocols: Annotated[
        str,
        arg(
            metavar="A,B",
            help="knn, linear, retrieval, …, file.py:NAME or package.module:NAME; all that apply "
            "unless named, but for missing_modality_robustness, modality_subsets, prompts, "
            "base_to_new, small_objects",
        ),
    ] = "",
    json: Annotated[
        Path | None, arg(help="write spec and results to this file; figures go beside it")
    ] = None,
    few: Annotated[
        int | None, arg(help="use only so many labels of each class, in several draws")
    ] = None,
    untrained: Annotated[bool, arg(help="measure the untrained encoder beside it")] = True,
) -> None:
    """Measure how good a run is on records it was not trained on."""
    from amodal.model import load

    options = {} if few is None else {"few": few}
    report = load(run).evaluate(
        data, label=label, protocols=listed(protocols), untrained=untrained, **options
    )
    show(report.table())
    if json is not None:
        report.save(json)
        print(f"wrote {json}")


def embed(
    run: Run,
    data: Data,
    out: Annotated[
        Path,
        arg(
            metavar="FILE.parquet",
            help="columns: key, source, vector; goes on where it was interrupted",
        ),
    ],
) -> None:
    """Embed every record into a Parquet file; under torchrun by all ranks."""
    from amodal.export.vectors import write_vectors
    from amodal.model import load
    from amodal.train import distributed

    count = write_vectors(load(run), data, out)
    if distributed.rank() == 0:
        print(f"wrote {count} vectors to {out}")


def view(
    run: Run,
    data: Annotated[
        str | None,
        arg(metavar="DIR", help="the records to show; what the run learnt from, unless given"),
    ] = None,
    port: int = 8001,
    browse: Annotated[bool, arg(help="open the browser")] = False,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
) -> None:
    """Look at a run in the browser.

    A map of the records, search, how it trained, odd records, what each field is worth.
    """
    from amodal.serve.view import view as run_page

    run_page(run, data=data, port=port, browse=browse, device=device)


def export(
    run: Run,
    to: Annotated[
        Literal["safetensors", "huggingface", "onnx"],
        arg(
            help="safetensors: a folder amodal.load reads; huggingface: the same for the Hub; onnx: one graph a field"
        ),
    ],
    out: Annotated[Path | None, arg(help="RUN/export unless given")] = None,
) -> None:
    """Write the encoder for use elsewhere."""
    from amodal.export import export as write
    from amodal.model import load

    for path in write(load(run), to, out or run / "export"):
        print(f"wrote {path}")
