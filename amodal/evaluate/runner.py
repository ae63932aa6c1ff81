"""Runs protocols on a model. It names none of them: each says itself what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.core.matmul import fast_products
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.evaluate.context import Context, EmbeddedParts, Run
from amodal.evaluate.frozen import FrozenParts, pretrained_fields
from amodal.evaluate.held_out import parts, test_groups
from amodal.evaluate.intervals import add_intervals
from amodal.evaluate.label_choice import LabelChoice
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.old_names import OLD_OPTIONS
from amodal.evaluate.over_runs import over_runs
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocol_registry import ProtocolLike, all_protocols, protocol
from amodal.evaluate.result import Report, Result
from amodal.evaluate.verdict import summary
from amodal.evaluate.yardsticks import SimpleParts
from amodal.inference.embed import Embedded, embed_records, known
from amodal.inference.forward_passes import AnyEncoder, Device
from amodal.progress import Bar
from amodal.stats.paired_bootstrap import Bootstrap


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
    _check_parts(dataset, labels, train, test)
    contexts = []
    for number, e in enumerate(e for e in (encoder, baseline) if e is not None):
        title = "embed, untrained" if number else "embed"
        embedded = _embedded(
            e, dataset, (train, test), batch=batch, device=device, title=title, progress=progress
        )
        contexts.append(
            Context(embedded, seed=seed, model=model, encoder=e, dataset=dataset, labels=labels)
        )
    about = {
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "records": len(dataset),
        **split,
    }
    report = Report([], [] if baseline is not None else None, {}, about)
    made: SimpleParts | None = None
    yardsticks: dict[str, Context] = {}
    compared = any(one.yardstick for one in chosen)
    if simple and compared:
        report.simple = []
        made = SimpleParts(
            encoder.fields,
            dataset,
            (train, test),
            contexts[0].parts,
            seed=seed,
            progress=progress,
        )
        yardsticks["simple"] = replace(contexts[0], parts=made)
    holder, frozen = pretrained_fields(model, encoder, baseline)
    if frozen and compared:
        report.frozen = []
        pooled = FrozenParts(
            holder,
            frozen,
            dataset,
            (train, test),
            contexts[0].parts,
            seed=seed,
            batch=batch,
            device=device,
            progress=progress,
        )
        yardsticks["frozen"] = replace(contexts[0], parts=pooled)
    for one in chosen:
        _run(one, contexts, yardsticks, options, report)
    if not report.results:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.skipped.items())
        raise AmodalError("nothing could be measured: " + reasons)
    if contexts[0].parts.made:
        report.train, report.test = contexts[0].parts.pair
    if made is not None and made.names:
        about["simple"] = made.names
    bootstrap = None
    if any(report.outcomes()):
        bootstrap = Bootstrap(len(test), seed=seed, group=test_groups(dataset, test))
        report.bootstrap = bootstrap
        add_intervals(report, bootstrap)
    if verdict := summary(report.rows(), report.outcomes(), bootstrap, about.get("simple")):
        about["summary"] = verdict
    return report


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


def _run(
    one: Protocol,
    contexts: list[Context],
    yardsticks: dict[str, Context],
    options: dict[str, Any],
    report: Report,
) -> None:
    """Add the results of one protocol to the report, for each label that it reads."""
    labels, filled = contexts[0].labels, one.filled(options)
    for number, label in enumerate(one.labels(labels)):
        try:
            results = [
                _result(one, replace(context, label=label, options=filled, first=not number))
                for context in contexts
            ]
        except NotApplicable as reason:
            name = one.name if len(labels.names) < 2 or label is None else f"{one.name} ({label})"
            report.skipped[name] = str(reason)
            continue
        report.results.append(results[0])
        if report.untrained is not None:
            report.untrained.append(results[1])
        for column, yardstick in yardsticks.items():
            context = replace(yardstick, label=label, options=filled, first=not number)
            getattr(report, column).append(_beside(one, context, results[0]))


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
    options, probed = SimpleNamespace(**vars(context.options)), context.test.probed()
    for name in ("sources", "pairs"):
        named = getattr(options, name, None)
        if named is None:
            continue
        within = [
            one for one in named if {*([one] if isinstance(one, str) else one)} <= set(probed)
        ]
        if not within:
            raise NotApplicable(f"no field of {name} has such features")
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
    dataset: Dataset, labels: LabelChoice, train: np.ndarray, test: np.ndarray
) -> None:
    """Raise an AmodalError for a named label that no record of one part has."""
    for name in labels.columns() if labels.named else []:
        for part, rows in (("training", train), ("test", test)):
            if not known(dataset.label(name)[rows]).any():
                raise AmodalError(
                    f"no record in the {part} part has the label {name!r} (only others have). "
                    "Label more records, or choose another label."
                )


def _check_options(chosen: Iterable[Protocol], options: dict[str, Any]) -> None:
    accepted = {name for one in chosen for name in one.options}
    for option in options:
        if option not in accepted:
            raise unknown(f"option of {', '.join(one.name for one in chosen)}", option, accepted)
    for one in chosen:
        one.filled(options)  # a wrong type is refused before anything is embedded


def _embedded(
    encoder: AnyEncoder,
    dataset: Dataset,
    rows: tuple[np.ndarray, np.ndarray],
    *,
    title: str,
    progress: bool,
    batch: int,
    device: Device | None,
) -> EmbeddedParts:
    """The embedded parts, computed when a protocol needs them."""

    def make() -> tuple[Embedded, Embedded]:
        with Bar(title, sum(map(len, rows)), shown=progress) as bar:

            def step(by: int) -> None:
                bar.step("records", by=by)

            train, test = (
                embed_records(encoder, dataset, part, progress=step, batch=batch, device=device)
                for part in rows
            )
        return train, test

    return EmbeddedParts(make)
