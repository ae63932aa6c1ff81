"""How good is it? Protocols, one a file, found by path: `amodal/evaluate/protocols/knn.py` is the protocol `knn`.

report = evaluate(model, "photos/", label="species")
report.table(), report.save("report.json")
knn.knn(train, test, label="species")          # one protocol, on records that `embed_records` made
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from amodal.core import AmodalError, unknown
from amodal.core.matmul import fast_products
from amodal.core.registry import load, pages
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.evaluate import figures
from amodal.evaluate.held_out import parts
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.papers import Papers, papers
from amodal.evaluate.result import Report, Result
from amodal.inference.embed import Embedded, embed_records, embed_values, known
from amodal.progress import Bar

__all__ = [
    "Embedded",
    "NotApplicable",
    "Papers",
    "Report",
    "Result",
    "embed_records",
    "embed_values",
    "evaluate",
    "figures",
    "papers",
    "protocol",
    "protocol_names",
]

ORDER = (
    "told",
    "knn",
    "linear",
    "survival",
    "cluster",
    "retrieval",
    "zero_shot",
    "missing",
    "transfer",
    "open_set",
    "identify",
)
ON_REQUEST = ("absence", "prompts", "base_to_new", "sense_sets", "small_objects")
"""Protocols that take long, or ask what few want to know, and are measured only when they are named."""

USUAL = (
    "label",
    "labels",
    "class",
    "target",
    "category",
    "species",
    "folder",
    "kind",
    "type",
    "genre",
    "diagnosis",
    "y",
)
"""What people call the label that they care about."""


def protocol_names() -> list[str]:
    """The names of the protocols there are."""
    known_pages = pages("evaluate/protocols")
    return [p for p in ORDER if p in known_pages] + sorted(set(known_pages) - set(ORDER))


def protocol(name: str) -> Callable[..., Result]:
    """The function of a protocol: (train, test, *, label, …) -> Result. Raises AmodalError with the nearest names."""
    module = load("evaluate/protocols", name, "protocol")
    return getattr(module, module.__name__.rpartition(".")[2])


@fast_products()
def evaluate(
    model,
    dataset,
    *,
    label: str | Sequence[str] | None = None,
    protocols: Sequence[str] | None = None,
    baseline=None,
    device=None,
    batch: int = 256,
    progress: bool = True,
    **options,
) -> Report:
    """Run protocols on records that were not trained on.

    model: an encoder, or a Model, which is not tested on records with the keys of those it was trained on. dataset: a Dataset or
    what `amodal.open` takes. label: one or several that are to be predicted, of a survival time TIME,EVENT; unless given, see
    `usual_label` and `survival_label`. protocols: all that apply unless given, but for those `ON_REQUEST`. baseline: an untrained
    encoder to measure beside it. options: of the protocols, e.g. few=5, k=20, templates=("a photo of {}",).

    A protocol that says nothing about this data is skipped with its reason in `Report.skipped`. Raises AmodalError for unknown
    protocols, labels and options, for a label that no record has, and if there is nothing to train or test on.
    """
    encoder, dataset = _opened(model, dataset)
    labels = _wanted(dataset, label)
    times = [name for name in labels if _is_time(dataset, name)]
    names = list(protocols) if protocols else _all_that_apply(labels, times)
    pages_ = {name.replace("-", "_"): protocol(name) for name in names}
    _check_options(pages_, options)
    train, test, split = parts(model, dataset)
    for name in _single(dataset, labels) if label is not None else []:
        for part, rows in (("training", train), ("test", test)):
            if not known(dataset.label(name)[rows]).any():
                raise AmodalError(
                    f"no record in the {part} part has the label {name!r} (only others have). Label more records, or choose another label."
                )
    total = (len(train) + len(test)) * (1 if baseline is None else 2)
    with Bar("embed", total, shown=progress) as bar:
        each = [_embed(e, dataset, train, test, batch, device, bar) for e in (encoder, baseline) if e is not None]
    about = {"data": dataset.name, "fingerprint": dataset.fingerprint, "records": len(dataset), **split}
    report = Report([], [] if baseline is not None else None, {}, about, *each[0])
    for name, run in pages_.items():
        single = [n for n in labels if n not in times]
        for wanted in (times or [survival_label(dataset) or None] if name == "survival" else single) or [None]:
            arguments = _arguments(run, wanted, options)
            if name == "survival" and _has_seen_labels(model):
                arguments["least"] = 0  # then nothing may be judged on records that it has learnt from
            if wanted in single[1:] and "find" in inspect.signature(run).parameters:
                arguments["find"] = False  # retrieval is the same for every label
            try:
                if wanted is None and _needs(run, "label"):
                    raise NotApplicable(
                        f"it needs a label, and {times[0]!r} is a time until an event"
                        if times
                        else "it needs a label and the data has none (declare one in dataset.toml: [labels.NAME])"
                    )
                found = [
                    run(*pair, **arguments, **_of_run(run, model, e, options))
                    for pair, e in zip(each, (encoder, baseline))
                ]
            except NotApplicable as reason:
                report.skipped[name if len(labels) < 2 else f"{name} ({wanted})"] = str(reason)
                continue
            report.results.append(found[0])
            if baseline is not None:
                report.untrained.append(found[1])
            if "label" not in inspect.signature(run).parameters:
                break  # the same for every label
    if not report.results:
        raise AmodalError(
            "nothing could be measured: " + "; ".join(f"{name}: {reason}" for name, reason in report.skipped.items())
        )
    return report


def _opened(model, dataset) -> tuple[object, Dataset]:
    encoder = getattr(model, "encoder", model)
    dataset = open_data(dataset) if not hasattr(dataset, "split") or isinstance(dataset, str) else dataset
    missing = hasattr(encoder, "fields") and hasattr(dataset, "with_fields") and dataset.fields != encoder.fields
    return encoder, dataset.with_fields(encoder.fields) if missing else dataset


def _wanted(dataset: Dataset, label: str | Sequence[str] | None) -> list[str]:
    """The labels to predict. Raises for those that are unknown or that no record has."""
    if label is not None:
        chosen = [label] if isinstance(label, str) else list(label)
        for name in _single(dataset, chosen):
            if not known(dataset.label(name)).any():  # `label` raises for a name that is none
                have = [n for n in dataset.labels if n != name and known(dataset.label(n)).any()]
                others = ", ".join(have) or "none"
                raise AmodalError(
                    f"none of the {len(dataset):,} records has the label {name!r}. Labels that some have: {others}."
                )
        return chosen
    return usual_label(dataset) + [name for name in [survival_label(dataset)] if name]


def _has_seen_labels(model) -> bool:
    config = getattr(model, "config", {})
    return bool(config.get("answers") or config.get("options", {}).get("label"))


def _is_time(dataset: Dataset, label: str) -> bool:
    return "," in label and label not in dataset.labels


def _single(dataset: Dataset, labels: Sequence[str]) -> list[str]:
    """The labels, those of a survival time one by one."""
    return [n.strip() for name in labels for n in (name.split(",") if _is_time(dataset, name) else [name])]


def _all_that_apply(labels: Sequence[str], times: Sequence[str]) -> list[str]:
    """The protocols to run where none is named: not those that read one label, if what is asked for is a time."""
    some = [p for p in protocol_names() if p not in ON_REQUEST and (times or p != "survival")]
    only_times = bool(labels) and len(times) == len(labels)
    return [p for p in some if not (only_times and _needs(protocol(p), "label"))]


def survival_label(dataset: Dataset) -> str:
    """TIME,EVENT: the first time whose event dataset.toml names, else `time` beside `event`; "" if there is neither."""
    for name, label in dataset.labels.items():
        event = label.event or ("event" if name == "time" and "event" in dataset.labels else "")
        if label.kind == "number" and event:
            if event not in dataset.labels:
                raise unknown("label of this dataset", event, dataset.labels, f"It is the event of {name!r}.")
            return f"{name},{event}"
    return ""


def usual_label(dataset: Dataset) -> list[str]:
    """The label to predict where none is named, [] if there is none: a category with a usual name, else the one with the fewest
    classes (2 to 100 if possible), else a number; the first in the data of several that are as good."""

    def rank(name: str) -> tuple:
        if dataset.labels[name].kind != "category":
            return 1, 0, 0, 0
        values = dataset.label(name)
        classes = len(set(values[known(values)]))
        return 0 if classes > 1 else 2, name.lower() not in USUAL, classes > 100, classes

    aside = survival_label(dataset).split(",")  # whether the event came is no class: of many it is still to come
    chosen = [n for n in dataset.labels if n not in aside and known(dataset.label(n)).any()]
    return sorted(chosen, key=rank)[:1]


def _embed(encoder, dataset: Dataset, train, test, batch: int, device, bar: Bar) -> tuple[Embedded, Embedded]:
    def step(rows: int) -> None:
        bar.step("records", by=rows)

    return tuple(
        embed_records(encoder, dataset, rows, batch=batch, device=device, progress=step) for rows in (train, test)
    )


def _check_options(chosen: dict[str, Callable], options: dict) -> None:
    accepted = {p for run in chosen.values() for p in inspect.signature(run).parameters} - {
        "train",
        "test",
        "embed_text",
        "head",
        "label",
    }
    for option in options:
        if option not in accepted:
            raise unknown(f"option of {', '.join(chosen)}", option, accepted)


def _needs(run: Callable, name: str) -> bool:
    """Whether a protocol cannot do without an argument."""
    argument = inspect.signature(run).parameters.get(name)
    return argument is not None and argument.default is inspect.Parameter.empty


def _arguments(run: Callable, label: str | None, options: dict) -> dict:
    accepted = inspect.signature(run).parameters
    chosen = {name: value for name, value in options.items() if name in accepted}
    return chosen | ({"label": label} if "label" in accepted and label is not None else {})


def _of_run(run: Callable, model, encoder, options: dict) -> dict:
    """What some protocols need of a run beside its vectors: its head, or how it reads words."""
    head = {"head": getattr(model, "head", None)} if "head" in inspect.signature(run).parameters else {}
    return head | _speech(run, encoder, options)


def _speech(run: Callable, encoder, options: dict) -> dict:
    """For protocols that read words: which sense they are, and how to embed them."""
    if "embed_text" not in inspect.signature(run).parameters:
        return {}
    fields = [name for name, m in encoder.fields.items() if m.takes_prompts]
    if not fields:
        raise NotApplicable(f"it needs a text sense; this encoder has {', '.join(encoder.fields)}")
    field = options.get("text", fields[0])
    if field not in fields:
        raise unknown("text sense of this encoder", field, fields)
    return {"text": field, "embed_text": lambda sentences: embed_values(encoder, field, sentences)}
