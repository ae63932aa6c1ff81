"""Runs protocols on a model. It names none of them: each says itself what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.core.matmul import fast_products
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.evaluate.context import Context, EmbeddedParts, Pair, Run
from amodal.evaluate.held_out import parts, subset
from amodal.evaluate.label_choice import LabelChoice
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_parts import NeededParts
from amodal.evaluate.needed_records import Mask, PartRecords
from amodal.evaluate.old_names import OLD_OPTIONS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocol_registry import ProtocolLike, all_protocols, protocol
from amodal.evaluate.result import Report, Result
from amodal.evaluate.verdict import summary
from amodal.evaluate.yardsticks import SimpleParts
from amodal.inference.embed import known
from amodal.inference.forward_passes import AnyEncoder, Device


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
    encoder, dataset = _opened(model, dataset)
    labels = LabelChoice.of(dataset, label)
    chosen = (
        [protocol(p) for p in protocols]
        if protocols
        else [p for p in all_protocols() if p.usual(labels)]
    )
    _check_options(chosen, options)
    train, test, split = parts(model, dataset)
    if records is not None:
        train, test, drawn = subset(train, test, records, seed)
        split |= drawn
    _check_parts(dataset, labels, train, test, records)
    about = {
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "records": len(dataset),
        **split,
    }
    report = Report([], [] if baseline is not None else None, {}, about)
    context = Context(
        EmbeddedParts(_none),
        seed=seed,
        model=model,
        encoder=encoder,
        dataset=dataset,
        labels=labels,
    )
    runs = [
        (one, replace(context, label=label, options=one.filled(options), first=not number))
        for one in chosen
        for number, label in enumerate(one.labels(labels))
    ]
    both = PartRecords.of(dataset, train), PartRecords.of(dataset, test)
    embedded = partial(
        NeededParts,
        records=both,
        needed=partial(_union, runs),
        progress=progress,
        batch=batch,
        device=device,
    )
    columns = _Columns(embedded(encoder))
    if baseline is not None:
        columns.untrained = embedded(baseline, title="embed, untrained")
    yardsticks = [(one, run) for one, run in runs if one.yardstick]
    if simple and yardsticks:
        report.simple = []
        columns.simple = SimpleParts(
            encoder.fields,
            dataset,
            (train, test),
            columns.trained,
            needed=partial(_union, yardsticks),
            pairs=any(one.compares_fields and one.may_apply(run) for one, run in yardsticks),
            seed=seed,
            progress=progress,
        )
    for one, run in runs:
        _run(one, run, columns, report)
    if not report.results:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.skipped.items())
        raise AmodalError("nothing could be measured: " + reasons)
    if columns.trained.made:
        report.train, report.test = columns.trained.pair
        about["embedded"] = columns.trained.counts
    if verdict := summary(report.rows()):
        about["summary"] = verdict
    return report


@dataclass
class _Columns:
    """What is measured side by side, each embedded once."""

    trained: NeededParts
    untrained: NeededParts | None = None
    simple: SimpleParts | None = None


def _none() -> Pair:
    raise AmodalError("a protocol says which records it needs before any is embedded")


def _union(
    runs: Sequence[tuple[Protocol, Context]], parts: tuple[PartRecords, PartRecords]
) -> tuple[Mask, Mask]:
    """The records that any of some protocols reads."""
    masks = [one.needed_records(parts, context) for one, context in runs]
    train, test = (np.any([pair[part] for pair in masks], 0) for part in (0, 1))
    return train, test


def _run(one: Protocol, context: Context, columns: _Columns, report: Report) -> None:
    """Add the results of one protocol and label to the report."""

    def seen(parts: NeededParts | SimpleParts) -> EmbeddedParts:
        return parts.only(partial(one.needed_records, context=context))

    labels, label, untrained = context.labels, context.label, columns.untrained
    try:
        result = _result(one, replace(context, parts=seen(columns.trained)))
        compared = None
        if untrained is not None:
            before = replace(context, parts=seen(untrained), encoder=untrained.encoder)
            compared = _result(one, before)
    except NotApplicable as reason:
        name = one.name if len(labels.names) < 2 or label is None else f"{one.name} ({label})"
        report.skipped[name] = str(reason)
        return
    report.results.append(result)
    if report.untrained is not None and compared is not None:
        report.untrained.append(compared)
    if report.simple is not None and columns.simple is not None:
        yardstick = replace(context, parts=seen(columns.simple))
        report.simple.append(_simple_result(one, yardstick, result))


def _simple_result(one: Protocol, context: Context, trained: Result) -> Result:
    """The result of simple features, without rows where there is none."""
    empty = replace(trained, rows=[])
    if not one.yardstick:
        return empty
    try:
        return _result(one, replace(context, options=_with_features(context)))
    except NotApplicable:
        return empty


def _with_features(context: Context) -> SimpleNamespace:
    """The options without fields that have no simple features.

    Raises:
        NotApplicable: If these are all that are named.
    """
    options, probed = SimpleNamespace(**vars(context.options)), context.test.probed()
    for name in ("sources", "pairs"):
        named = getattr(options, name, None)
        if named is None:
            continue
        within = [
            one for one in named if {*([one] if isinstance(one, str) else one)} <= set(probed)
        ]
        if not within:
            raise NotApplicable(f"no field of {name} has simple features")
        setattr(options, name, within)
    return options


def _result(one: Protocol, context: Context) -> Result:
    one.check(context)
    result = one.run(context)
    if not isinstance(result, Result):
        raise AmodalError(
            f"the protocol {one.name} returned {type(result).__name__}, and a Result is needed"
        )
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
