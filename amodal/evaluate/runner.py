"""Runs protocols on a model. It names none of them: each says itself what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.core.argument_types import check_type, is_count
from amodal.core.matmul import fast_products
from amodal.core.user_code import user_code
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.errors import each_warning_once
from amodal.evaluate.columns import Columns, ProtocolRun, columns_of
from amodal.evaluate.context import Context, EmbeddedParts, Pair, Run
from amodal.evaluate.held_out import parts, subset, test_groups
from amodal.evaluate.intervals import add_intervals
from amodal.evaluate.label_choice import LabelChoice
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import PartRecords
from amodal.evaluate.old_names import OLD_OPTIONS
from amodal.evaluate.over_runs import over_runs
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocol_registry import ProtocolLike, all_protocols, protocol
from amodal.evaluate.result import Report, Result
from amodal.evaluate.row import check_row
from amodal.evaluate.verdict import summary
from amodal.inference.embed import known
from amodal.inference.forward_passes import AnyEncoder, Device
from amodal.stats.paired_bootstrap import Bootstrap


@each_warning_once()
@fast_products()
def evaluate(
    model: Run | AnyEncoder,
    dataset: Any,
    *,
    label: str | Sequence[str] | None = None,
    protocols: Sequence[ProtocolLike] | None = None,
    baseline: AnyEncoder | None = None,
    device: Device | None = None,
    batch: int = 256,
    seed: int = 0,
    progress: bool = True,
    simple: bool = True,
    records: int | None = None,
    **options: Any,
) -> Report:
    """Run protocols on records that were not trained on.

    Args:
        model: An encoder; or a Model, which is not tested on records with the keys of those that it
            was trained on.
        dataset: A Dataset or what `amodal.open` takes.
        label: One or more labels to predict, "TIME,EVENT" for a survival time. Where none is named
            see `usual_label` and `survival_label`.
        protocols: Names, objects or classes of protocols, `package.module:NAME` or `file.py:NAME`.
            None for all that apply, except those that run on request only.
        baseline: An untrained encoder to measure beside it.
        device: Where the encoders are, read off their parameters unless set.
        batch: Records embedded at once.
        seed: Of everything that protocols draw.
        progress: Show a bar.
        simple: Measure simple features of the records (tf-idf, tiny pictures, lengths, …) beside
            it, by the protocols that read vectors and labels only.
        records: Training and test records at most, drawn by `seed`; None for all.
        options: Of the protocols, e.g. few=5, k=20, templates=("a photo of {}",).

    Returns:
        The report. A protocol that cannot measure anything on this data is in `Report.skipped`,
        with the reason.

    Raises:
        AmodalError: For unknown protocols, labels and options, for a label that no record has, and
            if there is nothing to train or test on.
    """
    options = {OLD_OPTIONS.get(name, name): value for name, value in options.items()}
    check_type("seed", seed, is_count, "a whole number, 0 or more")
    encoder, dataset = _opened(model, dataset)
    labels = LabelChoice.of(dataset, label)
    chosen = _chosen(protocols, labels)
    _check_options(chosen, options)
    train, test, about = _split(model, dataset, records, seed)
    _check_parts(dataset, labels, train, test, records)
    context = Context(
        EmbeddedParts(_none),
        seed=seed,
        model=model,
        encoder=encoder,
        dataset=dataset,
        labels=labels,
    )
    runs = _runs(chosen, context, options)
    columns = columns_of(
        encoder,
        runs,
        (PartRecords.of(dataset, train), PartRecords.of(dataset, test)),
        baseline=baseline,
        simple=simple,
        seed=seed,
        batch=batch,
        device=device,
        progress=progress,
    )
    measured, skipped = _measured(runs, columns)
    bootstrap = None
    if any(outcome is not None for one in measured["trained"] for outcome in one.outcomes):
        # outcomes are numbered in the whole test part, whichever of its records a protocol reads
        bootstrap = Bootstrap(len(test), seed=seed, group=test_groups(dataset, test))
    return _report(runs, measured, skipped, about, columns, bootstrap)


def evaluate_many(
    models: Sequence[Run | AnyEncoder],
    dataset: Any,
    *,
    baselines: Sequence[AnyEncoder] | None = None,
    **options: Any,
) -> Report:
    """Run protocols on models of one configuration, trained with different seeds.

    Args:
        models: See `evaluate`.
        dataset: See `evaluate`.
        baselines: An untrained encoder for each model.
        options: Of `evaluate`.

    Returns:
        Means over the models, see `amodal.evaluate.over_runs`.

    Raises:
        AmodalError: See `evaluate`; and for another number of baselines than of models.
    """
    if baselines is not None and len(baselines) != len(models):
        raise AmodalError(
            f"{len(models)} models have {len(baselines)} baselines; one of each is needed"
        )
    opened = dataset if isinstance(dataset, Dataset) else open_data(dataset)
    befores = [None] * len(models) if baselines is None else baselines
    return over_runs(
        [
            evaluate(model, opened, baseline=before, **options)
            for model, before in zip(models, befores)
        ]
    )


def _split(
    model: Run | AnyEncoder, dataset: Dataset, records: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The training and the test records, and what a report says about them."""
    train, test, about = parts(model, dataset)
    if records is not None:
        train, test, drawn = subset(train, test, records, seed)
        about |= drawn
    data = {"data": dataset.name, "fingerprint": dataset.fingerprint, "records": len(dataset)}
    return train, test, data | about


def _chosen(protocols: Sequence[ProtocolLike] | None, labels: LabelChoice) -> list[Protocol]:
    if protocols:
        chosen = {id(made): made for made in map(protocol, protocols)}
        names = [one.name for one in chosen.values()]
        for one in chosen.values():
            if names.count(one.name) > 1:
                raise AmodalError(
                    f"two protocols that are to be run are called {one.name!r}, and a report "
                    "would mix up their results; give one another name"
                )
        return [*chosen.values()]
    return [one for one in all_protocols() if one.usual(labels)]


def _runs(
    chosen: Iterable[Protocol], context: Context, options: dict[str, Any]
) -> list[ProtocolRun]:
    """Each protocol on each label that it reads."""
    return [
        (one, replace(context, label=label, options=one.filled(options), first=not number))
        for one in chosen
        for number, label in enumerate(one.labels(context.labels))
    ]


def _none() -> Pair:
    raise AmodalError("a protocol says which records it needs before any is embedded")


def _measured(
    runs: Sequence[ProtocolRun], columns: Columns
) -> tuple[dict[str, list[Result]], dict[str, str]]:
    """Column -> the results of all protocols, and why the others were skipped."""
    measured: dict[str, list[Result]] = {name: [] for name in columns.names}
    skipped = {}
    for one, run in runs:
        try:
            found = _run(one, run, columns)
        except NotApplicable as reason:
            with_label = len(run.labels.names) > 1 and run.label is not None
            skipped[f"{one.name} ({run.label})" if with_label else one.name] = str(reason)
            continue
        for name, results in measured.items():
            results.append(found[name])
    if not measured["trained"]:
        named: dict[str, list[str]] = {}
        for name, why in skipped.items():
            named.setdefault(why, []).append(name)
        reasons = "; ".join(f"{', '.join(names)}: {why}" for why, names in named.items())
        raise AmodalError(
            f"nothing could be measured: {reasons}. `amodal diagnose` measures the vectors of "
            "data that has neither labels nor a second field"
        )
    return measured, skipped


def _run(one: Protocol, context: Context, columns: Columns) -> dict[str, Result]:
    """Column -> the result of one protocol and label."""
    needed = partial(one.needed_records, context=context)
    trained = _result(one, replace(context, parts=columns.trained.only(needed)))
    found = {"trained": trained}
    if (before := columns.untrained) is not None:
        seen = replace(
            context, parts=before.only(needed), encoder=before.encoder, column="untrained"
        )
        found["untrained"] = _result(one, seen)
    for name, features in columns.beside():
        if name == "joined" and not one.joined:
            found[name] = replace(trained, rows=[])
            continue
        beside = replace(context, parts=features.only(needed), column=name)
        found[name] = _beside(one, beside, trained)
    return found


def _report(
    runs: Sequence[ProtocolRun],
    measured: dict[str, list[Result]],
    skipped: dict[str, str],
    about: dict[str, Any],
    columns: Columns,
    bootstrap: Bootstrap | None,
) -> Report:
    """A report with its intervals and its sentence."""
    embedded = columns.trained.pair if columns.trained.made else (None, None)
    about = about | ({"embedded": columns.trained.counts} if columns.trained.made else {})
    if columns.simple is not None and columns.simple.names:
        about["simple"] = columns.simple.names
    notes = {r.protocol: r.spec["note"] for r in measured["trained"] if r.spec.get("note")}
    about |= {"notes": notes} if notes else {}
    report = Report(
        measured["trained"],
        untrained=measured.get("untrained"),
        skipped=skipped,
        about=about,
        train=embedded[0],
        test=embedded[1],
        simple=measured.get("simple"),
        frozen=measured.get("frozen"),
        joined=measured.get("joined"),
        bootstrap=bootstrap,
    )
    if bootstrap is not None:
        add_intervals(report, bootstrap)
    rows = report.rows()
    sentences = [summary(rows, report.outcomes(), bootstrap, about.get("simple"))]
    for one in dict.fromkeys(one for one, _ in runs):
        sentences.append(one.remark([row for row in rows if row["protocol"] == one.name]))
    if any(sentences):
        about["summary"] = " ".join(filter(None, sentences))
    return report


def _beside(one: Protocol, context: Context, trained: Result) -> Result:
    """The result of simple or of frozen features, without rows where there is none."""
    empty = replace(trained, rows=[])
    if not one.yardstick:
        return empty
    try:
        return _result(one, replace(context, options=_with_features(context)))
    except NotApplicable:
        return empty


def _with_features(context: Context) -> SimpleNamespace:
    """The options without fields that have no such features.

    Raises:
        NotApplicable: If these are all that are named.
    """
    options, probed = dict(vars(context.options)), context.test.probed()
    for name in ("sources", "pairs"):
        named = options.get(name)
        if named is None:
            continue
        within = [
            one for one in named if {*([one] if isinstance(one, str) else one)} <= set(probed)
        ]
        if not within:
            raise NotApplicable(f"no field of {name} has such features")
        options[name] = within
    return SimpleNamespace(**options)


def _result(one: Protocol, context: Context) -> Result:
    one.check(context)
    if type(one).__module__.startswith("amodal."):
        result = one.run(context)
    else:
        with user_code(f"the protocol {one.name}", type(one)):
            result = one.run(context)
    if not isinstance(result, Result):
        raise AmodalError(
            f"the protocol {one.name} returned {type(result).__name__}, and a Result is needed"
        )
    if result.protocol != one.name:
        raise AmodalError(
            f"the protocol {one.name} returned the result of {result.protocol!r}; give "
            "Result its own name: Result(self.name, …)"
        )
    for number, row in enumerate(result.rows):
        check_row(row, f"row {number} of the protocol {one.name}")
    return result


def _opened(model: Run | AnyEncoder, dataset: Any) -> tuple[AnyEncoder, Dataset]:
    """The encoder, and the dataset with the encoder's fields."""
    encoder = model.encoder if isinstance(model, Run) else model
    # a str has `split` too
    if isinstance(dataset, str) or not hasattr(dataset, "split"):
        dataset = open_data(dataset)
    if dataset.fields != encoder.fields:
        dataset = dataset.with_fields(encoder.fields)
    return encoder, dataset


def _check_parts(
    dataset: Dataset,
    labels: LabelChoice,
    train: np.ndarray,
    test: np.ndarray,
    records: int | None,
) -> None:
    """Raise an AmodalError for a named label that no record of one part has."""
    only = f" among the {records:,} drawn" if records else " (only others have)"
    for name in labels.columns() if labels.named else []:
        for part, rows in (("training", train), ("test", test)):
            if not known(dataset.label(name)[rows]).any():
                raise AmodalError(
                    f"no record in the {part} part has the label {name!r}{only}. "
                    f"{'Draw' if records else 'Label'} more records, or choose another label."
                )


def _check_options(chosen: Iterable[Protocol], options: dict[str, Any]) -> None:
    accepted = {name for one in chosen for name in one.options}
    for option in options:
        if option not in accepted:
            raise unknown(f"option of {', '.join(one.name for one in chosen)}", option, accepted)
    for one in chosen:
        one.filled(options)  # a wrong type is refused before anything is embedded
