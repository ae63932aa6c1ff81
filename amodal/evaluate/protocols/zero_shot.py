"""Zero-shot classification: the class whose name, in a sentence, is nearest. Radford et al. 2021,
arXiv:2103.00020, 3.1.

The vector of a class is the mean of the unit vectors of its prompts: each of its wordings (its
name, or what is known of it) in each template (3.1.4). A method that compares attributes gives
logits instead. The simple thing beside it is tf-idf of a record's own text and the sentences of a
class. Where records have no text, compare what one label a class gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Column
from amodal.evaluate.class_truth import (
    MEAN_AUROC,
    ONE_LABEL,
    by_simple_text,
    check_found,
    labelled_scores,
    listed_classes,
    multi_rows,
    multi_truth,
    one_label_rows,
    seen_rows,
    single_rows,
)
from amodal.evaluate.context import Context
from amodal.evaluate.labels import NotApplicable, classes_of, is_number
from amodal.evaluate.needed_records import Mask, PartRecords, every_record, few_drawn
from amodal.evaluate.needs import CLASS_NAMES, LABEL
from amodal.evaluate.options import Option, of_dataclass
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row, Spec
from amodal.evaluate.verdict import listed, pair
from amodal.inference.class_prompts import (
    Classes,
    class_vectors,
    read_classes,
    read_templates,
)
from amodal.inference.classify import (
    Likeness,
    NamedClasses,
    method_scores,
    named_classes,
    similarities,
    stacked,
)
from amodal.inference.embed import Embedded
from amodal.inference.knowledge_prompts import Knowledge, knowledge_prompts, plain

TEMPLATES = ("{}",)
BY_TEXT = "simple is tf-idf of {} of the same records and of the sentences of a class"
NO_TEXT = "without a text of the records there is no simple way to name their class"


def zero_shot(
    train: Embedded | None,
    test: Embedded,
    *,
    label: str,
    embed_text: Callable[[list[str]], Tensor],
    text: str = "text",
    templates: Sequence[str] = TEMPLATES,
    names: Mapping[str, str] | None = None,
    knowledge: Knowledge | None = None,
) -> Result:
    """Classify records of each field by prompts.

    Args:
        train: Only adds classes that the test records lack.
        test: Test records.
        label: The classes.
        embed_text: Sentences -> (n, D) vectors of the aligned space.
        text: The field of the prompts, which is not classified itself.
        templates: Sentences with {} for the class.
        names: class -> the words to put there; "_" becomes a space for others.
        knowledge: class -> phrases that follow its name, see `amodal.inference.knowledge_prompts`.

    Raises:
        NotApplicable: See `likeness`.
        AmodalError: For a template without {}.
    """
    spec, likenesses = likeness(train, test, label, embed_text, text, templates, names, knowledge)
    rows: list[Row] = []
    for source, (truth, scores) in likenesses.items():
        who = labelled_scores(test.aligned[source], test.label(label), [])[2]
        found = single_rows(truth, scores, Likeness.learned(None), who)
        rows += [{"source": source, **row} for row in found]
    return Result("zero_shot", spec, rows)


def likeness(
    train: Embedded | None,
    test: Embedded,
    label: str,
    embed_text: Callable[[list[str]], Tensor],
    text: str,
    templates: Sequence[str] = TEMPLATES,
    names: Mapping[str, str] | None = None,
    knowledge: Knowledge | None = None,
) -> tuple[Spec, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Similarity of records and the prompts of all classes.

    Args:
        train: See `zero_shot`.
        test: See `zero_shot`.
        label: See `zero_shot`.
        embed_text: See `zero_shot`.
        text: See `zero_shot`.
        templates: See `zero_shot`.
        names: See `zero_shot`.
        knowledge: See `zero_shot`.

    Returns:
        The spec, with `prompts` of each class; field -> true classes (n,) and similarities (n, C)
        of the test records that have it and the label, in the order of `prompts`.

    Raises:
        NotApplicable: If the label is a number, or no field has labelled records.
        AmodalError: For a template without {}.
    """
    labels = _category(test, label)
    classes = _all_classes(train, test, label)
    read = _described(classes, label, None, names, knowledge)
    prompts = read.prompts(read_templates(templates))
    vectors = class_vectors(embed_text, prompts)
    found = {}
    for source in test.sources:
        column = similarities(test.aligned[source], vectors, test.abs_cosine)
        truth, scores, _ = labelled_scores(column, labels, read.names)
        if source != text and len(truth) > 1:
            found[source] = (truth, scores)
    if not found:
        raise NotApplicable(f"no field other than {text!r} has records with the label {label!r}")
    spec = {"label": label, "kind": "category", "text": text, "templates": list(templates)}
    return spec | {"prompts": prompts, "space": "aligned", "test": len(test)}, found


def _category(test: Embedded, label: str) -> np.ndarray:
    labels = test.label(label)
    if is_number(labels):
        raise NotApplicable(f"the label {label!r} is a number, and numbers have no class names")
    return labels


def _all_classes(train: Embedded | None, test: Embedded, label: str) -> list[str]:
    labels = test.label(label)
    return classes_of([*labels, *(() if train is None else train.labels.get(label, ()))])


def _described(
    names: Sequence[str],
    label: str,
    classes: Any,
    wordings: Mapping[str, str] | None,
    knowledge: Knowledge | None,
) -> Classes:
    """The classes of a label, with what is known of them; those of `classes` alone are there too.

    The order is that of the names of the label; the classes that it does not have follow.
    """
    if classes is not None:
        read = read_classes(classes)
        check_found(read, names, label)
        matched = read.matched(names)
        order = [*names, *(n for n in matched.names if n not in names)]
        return Classes({n: matched.wordings[n] for n in order}, matched.cells)
    words = {name: name.replace("_", " ") for name in names}
    words |= knowledge_prompts(names, knowledge) if knowledge else {}
    words |= {name: w for name, w in (wordings or {}).items() if name in words}
    return Classes({name: (w,) for name, w in words.items()})


@dataclass(frozen=True)
class Options:
    """Options of `zero_shot`.

    Args:
        classes: Names or a file of classes, see `amodal.inference.class_prompts.read_classes`.
            Those of the label that are not among them stand for themselves.
        templates: See `amodal.inference.class_prompts.read_templates`.
        names: class -> the words to put there.
        knowledge: class -> phrases that follow its name.
        text: The field of the prompts, "" for the first text.
        by: The same; or a table, by whose cells classes are described.
        multi_label: Whether a record may have any number of classes: a label of yes and no for
            each, or one that lists them with ";" between.
        seen: Classes that were trained on; unless set, those of training records.
        stacking: What is subtracted from their scores.
    """

    classes: Any = None
    templates: Sequence[str] = TEMPLATES
    names: Mapping[str, str] | None = None
    knowledge: Mapping[str, Any] | None = None
    text: str = ""
    by: str = ""
    multi_label: bool = False
    seen: Sequence[str] = field(default_factory=tuple)
    stacking: float = 0.0


def training_records(part: PartRecords, context: Context) -> Mask:
    """One label a class, over the usual draws."""
    return few_drawn(part, context, 1, DRAWS)


def test_records(part: PartRecords, context: Context) -> Mask:
    """Those with the label; all, where a label for each class says what they are."""
    if getattr(context.options, "multi_label", False):
        return every_record(part, context)
    return part.labelled(context.label)


DRAWS = 5
"""Of one label a class."""


class ZeroShot(Protocol):
    """Classes named by words."""

    name, needs, needed = "zero_shot", (LABEL, CLASS_NAMES), (training_records, test_records)
    rank = 70
    against_chance = yardstick = True
    joined = False
    headlines = (
        *("accuracy", "balanced accuracy", "macro F1", "AUROC", MEAN_AUROC, ONE_LABEL),
        "macro top-1, harmonic mean",
    )
    measure = staticmethod(zero_shot)

    @cached_property
    def options(self) -> dict[str, Option]:
        """Those of `Options`: more than the function has."""
        return of_dataclass(Options)

    def run(self, context: Context) -> Result:
        """See `Protocol.run`."""
        read, truth = self._classes(context)
        columns, named, spec = self._scores(context, read)
        likeness = Likeness.learned(_method(context))
        rows: list[Row] = []
        for source, column in columns.items():
            found = self._rows(context, column, read, truth, likeness)
            rows += [{"source": source, **row} for row in found]
        sources = named.sources
        if not context.options.multi_label:
            rows += one_label_rows(
                context.train, context.test, context.label, sources, DRAWS, context.seed
            )
        if not rows and context.column == "trained":
            raise NotApplicable(
                f"no record with the label {context.label!r} has a value of {' or '.join(sources)}"
            )
        return Result("zero_shot", spec | _label_spec(context, read), rows)

    def shortened(self, rows: Sequence[Row]) -> list[Row]:
        """Of many classes their mean, which stands beside them."""
        return [row for row in rows if "target" not in row]

    def remark(self, rows: Sequence[Row]) -> str:
        """Where one label a class, with simple features, is level with names or better."""
        named, labelled = (
            {row["source"]: row for row in rows if row["metric"] == metric}
            for metric in ("balanced accuracy", ONE_LABEL)
        )
        better = [
            f"{source} ({pair(float(row['simple']), float(named[source]['value']), ', by names ')})"
            for source, row in labelled.items()
            if source in named and row.get("simple", 0.0) >= named[source]["value"]
        ]
        if not better:
            return ""
        return f"One label a class and simple features do as well or better: {listed(better)}."

    def _classes(self, context: Context) -> tuple[Classes, np.ndarray]:
        """The classes, and what test records are."""
        options, test, label = context.options, context.test, context.label
        assert label is not None, "it needs a label"
        if not options.multi_label:
            labels = _category(test, label)
            names = _all_classes(context.train, test, label)
            wanted = options.classes, options.names, options.knowledge
            return _described(names, label, *wanted), labels
        if options.classes is not None:
            read = read_classes(options.classes)
        elif not is_number(test.label(label)):
            read = _described(
                listed_classes(list(test.label(label))), label, None, options.names, None
            )
        else:
            raise NotApplicable(f"say which classes there are, as {label!r} is a number: classes")
        return read, multi_truth(test.labels, label, read)

    def _scores(
        self, context: Context, read: Classes
    ) -> tuple[dict[str, Column], NamedClasses, Spec]:
        """Field -> (n, C) scores in this column of the report; none where it has no words."""
        options, method = context.options, _method(context)
        templates = read_templates(options.templates)
        assert context.encoder is not None, "it needs class names"
        by = options.by or options.text
        named = named_classes(context.encoder, read, templates, method=method, by=by)
        text = named.by
        spec: Spec = {
            "text": text,
            "templates": list(templates),
            "prompts": dict(named.prompts),
        }
        spec |= {"space": "aligned", "stacking": options.stacking, "test": len(context.test)}
        if context.column in ("trained", "untrained"):
            own = self._own_scores(context, named, method)
            texts = context.test.aligned.columns.get(named.by, ()) if named.prompts else ()
            has_text = len(texts) > 1
            return own, named, spec | {"note": BY_TEXT.format(named.by) if has_text else NO_TEXT}
        simple = None
        if context.column == "simple" and named.prompts and context.dataset is not None:
            simple = by_simple_text(
                context.dataset, named.by, context.train, context.test, named.prompts
            )
        if simple is None:
            return {}, named, spec
        return {s: _with_field(simple, s, context.test) for s in named.sources}, named, spec

    def _own_scores(self, context: Context, named: NamedClasses, method: Any) -> dict[str, Column]:
        if named.vectors_CD is not None:
            return named.scores(context.test)
        if context.column != "trained" or context.dataset is None:
            return {}  # heads that compare attributes are the method's, which is trained
        number = {key: i for i, key in enumerate(context.dataset.keys)}
        rows = np.array([number[key] for key in context.test.keys], dtype=np.int64)
        return method_scores(method, named, context.dataset, rows)

    def _rows(
        self,
        context: Context,
        column: Column,
        read: Classes,
        truth: np.ndarray,
        likeness: Likeness,
    ) -> list[Row]:
        options = context.options
        if options.multi_label:
            inside = np.isfinite(truth[column.rows.numpy()]).all(1)
            who, scores = column.rows.numpy()[inside], column.flat.numpy()[inside]
            return multi_rows(truth[who] > 0, scores, read.names, who) if len(who) > 1 else []
        codes, scores, who = labelled_scores(column, truth, read.names)
        if len(who) < 2:
            return []
        is_seen = self._seen(context, read)
        seen = [name for name, one in zip(read.names, is_seen) if one]
        scores = stacked(scores, read.names, seen, options.stacking)
        halves = seen_rows(codes, scores, is_seen)
        return single_rows(codes, scores, likeness, who) + halves

    def _seen(self, context: Context, read: Classes) -> np.ndarray:
        """(C,) which classes are seen ones."""
        label, seen = context.label, context.options.seen
        if not seen:
            seen = classes_of(context.train.labels.get(label or "", ()))
        known_names = {*map(plain, read.names)}
        for name in seen:
            if plain(name) not in known_names:
                raise AmodalError(f"the seen class {name!r} is none of the classes")
        return np.array([plain(n) in {*map(plain, seen)} for n in read.names])


def _with_field(column: Column, source: str, test: Embedded) -> Column:
    """Scores of the records that have a field, where that is known."""
    if source not in test.aligned:
        return column
    return column.at(torch.isin(column.rows, test.aligned[source].rows))


def _method(context: Context) -> Any:
    return getattr(context.model, "method", None)


def _label_spec(context: Context, read: Classes) -> Spec:
    many = context.options.multi_label
    label = f"{len(read)} classes" if many else context.label
    return {"label": label, "kind": "categories" if many else "category"}


PROTOCOL = ZeroShot()
