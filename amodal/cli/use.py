"""Verbs that use a run: predict, evaluate, embed, view, export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from amodal.cli.classes import NO_CLASSES, ByName, need_classes
from amodal.cli.options import listed, weights_of
from amodal.cli.own_code import NONE, Code
from amodal.cli.shared import PROTOCOL_OPTIONS, Data, Run, Runs, show
from amodal.core import AmodalError

NOT_OF_PROTOCOLS = ("label", "protocols", "simple", "untrained", "records")
"""Options of an evaluation, which no protocol has."""


def predict(
    run: Run,
    data: Data,
    out: Annotated[
        Path,
        arg(
            metavar="FILE",
            help="a .csv or .parquet file: key, and each prediction or the generated field",
        ),
    ],
    part: Annotated[str | None, arg(help="train, valid or test; by default all records")] = None,
    copy: Annotated[
        str,
        arg(metavar="A,B", help="columns of the data to write beside the predictions"),
    ] = "",
    by_field: Annotated[
        bool,
        arg(help="before any field and after each, of a method that reads one after another"),
    ] = False,
    by_name: ByName = NO_CLASSES,
    field: Annotated[
        str,
        arg(metavar="FIELD", help="of --classes: whose values; by default all that are not words"),
    ] = "",
    threshold: Annotated[
        float | None,
        arg(help="of --multi-label: the probability or cosine from which a record has a class"),
    ] = None,
    temperature: Annotated[
        float | None, arg(help="of --classes: of the softmax; by default the run's own")
    ] = None,
    code: Code = NONE,
) -> None:
    """Predict the labels of records, with a run of `amodal adapt`; or classes by their names, with
    a run that compares words with other fields (--classes); or generate a field, with a run of a
    method that generates one."""
    from amodal.adapt import write_predictions
    from amodal.inference.class_predictions import write_classes

    options: dict[str, Any] = {"field": field, "threshold": threshold, "temperature": temperature}
    options = by_name.chosen() | {n: v for n, v in options.items() if v not in (None, "")}
    need_classes(options)
    if options and by_field:
        raise AmodalError("--by-field is of labels that the run has learnt; leave --classes out")
    if options and copy:
        raise AmodalError("--copy is of labels or a field that is predicted; leave --classes out")
    if options:
        print(write_classes(code.open(run), data, out, part=part, **options))
        print(f"wrote {out}")
        return
    copied = listed(copy) or ()
    model = code.open(run)
    count = write_predictions(model, data, out, part=part, by_field=by_field, copy=copied)
    print(f"wrote predictions for {count} records to {out}")


def evaluate(
    run: Runs,
    data: Data,
    label: Annotated[
        str | None,
        arg(
            metavar="FIELD",
            help="the label that knn, linear, … predict; for a survival time TIME,EVENT",
        ),
    ] = None,
    protocols: Annotated[
        str,
        arg(
            metavar="A,B",
            help="knn, linear, retrieval, …, file.py:NAME or package.module:NAME; by default all "
            "that apply except missing_modality_robustness, modality_subsets, prompts, "
            "base_to_new, small_objects, backdoor, next_event, dense, multilabel; options: "
            "--protocol.NAME VALUE",
        ),
    ] = "",
    json: Annotated[
        Path | None, arg(help="write spec and results to this file, and figures beside it")
    ] = None,
    html: Annotated[
        Path | None, arg(help="write one page with the sentence, the tables and the figures")
    ] = None,
    few: Annotated[
        int | None, arg(help="use this number of labels of each class, over repeated draws")
    ] = None,
    records: Annotated[
        int | None,
        arg(help="use this number of training and of test records at most, drawn at random"),
    ] = None,
    ensemble: Annotated[
        tuple[Path, ...],
        arg(metavar="RUN2", help="evaluate RUN and these as one, whose cosines are averaged"),
    ] = (),
    ensemble_weights: Annotated[
        str, arg(metavar="2,1", help="of RUN and the others; by default equal")
    ] = "",
    untrained: Annotated[bool, arg(help="also evaluate the untrained encoder")] = True,
    simple: Annotated[
        bool, arg(help="also evaluate simple features: tf-idf, tiny pictures, lengths, …")
    ] = True,
    by_name: ByName = NO_CLASSES,
    code: Code = NONE,
) -> None:
    """Evaluate a run on records it was not trained on; or more runs that differ by their seed, with
    means and intervals over them."""
    from amodal.evaluate import over_runs
    from amodal.run_ensemble import Ensemble

    if not run:
        raise AmodalError("no run was named: amodal evaluate RUN --data DATA")
    options: dict[str, Any] = {"simple": simple, "records": records, "label": label}
    options |= {"protocols": listed(protocols), "untrained": untrained}
    options |= {} if few is None else {"few": few}
    options |= by_name.chosen()
    options |= _protocol_options(listed(protocols) or (), options)
    if ensemble_weights and not ensemble:
        raise AmodalError("--ensemble-weights are of --ensemble RUN2, and there is none")
    if ensemble and len(run) > 1:
        raise AmodalError("--ensemble is of one RUN and others; runs side by side are seeds")
    if ensemble:
        runs = list(map(code.open, (*run, *ensemble)))
        report = Ensemble(runs, weights_of(ensemble_weights)).evaluate(data, **options)
    else:
        report = over_runs([code.open(one).evaluate(data, **options) for one in run])
    show(report.table())
    if json is not None:
        report.save(json)
        print(f"wrote {json}")
    if html is not None:
        report.save_html(html)
        print(f"wrote {html}")


def _protocol_options(protocols: Sequence[str], others: Mapping[str, Any]) -> dict[str, object]:
    """The options `--protocol.NAME VALUE`.

    Args:
        protocols: Their names; all if there are none.
        others: Options of this command line without that prefix.

    Raises:
        AmodalError: For an option that is set twice, and one of the evaluation as a whole.
    """
    from amodal.evaluate.protocol_registry import options_from_text

    for name in PROTOCOL_OPTIONS:
        option = f"--{name.replace('_', '-')}"
        if name in NOT_OF_PROTOCOLS or others.get(name) not in (None, ""):
            why = "is set twice" if name not in NOT_OF_PROTOCOLS else "is of all protocols together"
            raise AmodalError(f"{name} {why}: write {option} and leave --protocol.{name} out")
    return options_from_text(protocols, PROTOCOL_OPTIONS)


def embed(
    run: Run,
    data: Data,
    out: Annotated[
        Path,
        arg(
            metavar="FILE",
            help=".parquet, .csv, .npy or .lance: key, source, vector; an interrupted file goes "
            "on. With --dense a .tif file of all records (of points .parquet) or a .nii.gz of one, "
            "or a folder with one of each",
        ),
    ],
    dense: Annotated[
        bool,
        arg(help="a vector for each place, of GeoTIFF, scans and points of any size, as files"),
    ] = False,
    field: Annotated[
        str, arg(metavar="FIELD", help="of --dense: whose places; by default the only one")
    ] = "",
    patch: Annotated[
        int | None,
        arg(metavar="PIXELS", help="of --dense: side of a place, of those that `patches` has"),
    ] = None,
    code: Code = NONE,
) -> None:
    """Embed every record into a file; under torchrun on all ranks."""
    if dense:
        from amodal.maps.ground import write_dense

        files = write_dense(code.open(run), data, out, field=field or None, patch=patch)
        few = ", ".join(map(str, files)) if len(files) < 3 else f"{len(files)} files to {out}"
        print(f"wrote {few}")
        return
    if field or patch:
        raise AmodalError(
            "--field and --patch are of --dense; vectors are made of all fields, whole"
        )
    from amodal.export.vector_files import check_suffix
    from amodal.export.vectors import write_vectors
    from amodal.train import distributed

    check_suffix(out)  # a run takes a while to open
    count = write_vectors(code.open(run), data, out)
    if distributed.rank() == 0:
        print(f"wrote {count} vectors to {out}")


def view(
    run: Run,
    data: Annotated[
        str | None,
        arg(metavar="DIR", help="the records to show; by default the training data"),
    ] = None,
    port: int = 8001,
    browse: Annotated[bool, arg(help="open the browser")] = False,
    device: Annotated[str, arg(help="auto, cpu, cuda, cuda:N")] = "auto",
    code: Code = NONE,
) -> None:
    """View a run, or the folder of `amodal compare`, in the browser.

    A map of the records, search, training curves, outliers, and the importance of each field; of a
    comparison all methods beside the yardsticks, while it runs and after.
    """
    from amodal.serve.view import view as run_page

    with code.supplied(run):
        run_page(run, data=data, port=port, browse=browse, device=device)


def export(
    run: Run,
    to: Annotated[
        Literal["safetensors", "huggingface", "onnx"],
        arg(
            help="safetensors: a folder for amodal.load; huggingface: the same for the Hub; "
            "onnx: one graph per field"
        ),
    ],
    out: Annotated[Path | None, arg(help="by default RUN/export")] = None,
    packaged: Annotated[
        bool,
        arg(help="with weights of frozen `package:` backbones; else fetched where it is opened"),
    ] = True,
    code: Code = NONE,
) -> None:
    """Write the encoder for use elsewhere."""
    from amodal.export import export as write

    for path in write(code.open(run), to, out or run / "export", packaged=packaged):
        print(f"wrote {path}")
