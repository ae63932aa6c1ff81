"""Composed retrieval: a value and words that change it find what it becomes (Recall@k).

A record has a reference (a picture, in composed image retrieval), a sentence that says what to
change, and the target: a picture or a caption, in a column of the data that the run need not know.
FashionIQ (Wu et al., arXiv:1905.12794) and CIRR (Liu et al., arXiv:2108.04024) are of this form.

The gallery is the different targets of the test records and, where they are of the reference's
field, the references too. The own reference of a query is left out of it, as in CIRR, unless
`own_reference`; in FashionIQ it stays. Queries are composed as `amodal search` does it: by what the
run has learnt (scot), else by averages. Beside them are the average, the reference and the words
alone. Ties count as they would on average if they were broken at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Column, unknown
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.data.other_column import column_named, read_from
from amodal.evaluate.context import Context
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_records import every_record, no_record
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.compose import change_field, compose, mean_of_units
from amodal.inference.embed import Embedded, embed_records
from amodal.stats.paired_bootstrap import Mean
from amodal.stats.ranking import MAX_SIMILARITIES, hits, reciprocal_ranks

MIN_RECORDS = 10
"""Below which a rank says nothing."""


@dataclass(frozen=True)
class Queries:
    """N queries and their gallery.

    Args:
        rows: (N,) which test records they are of.
        reference: (N, D) vectors of what is to be changed.
        change: (N, D) vectors of what to change.
        gallery: (M, D) vectors, of different values.
        right: (N,) which of the gallery is the target.
        left_out: (N,) which of the gallery is not ranked for the query, -1 for none.
    """

    rows: np.ndarray
    reference: Tensor
    change: Tensor
    gallery: Tensor
    right: Tensor
    left_out: Tensor


def field_of_targets(dataset: Dataset, name: str, references: Sequence[str], text: str) -> str:
    """The field that decodes the targets.

    Args:
        dataset: Has them.
        name: Of the column of targets.
        references: Fields of what is changed.
        text: The field of words.

    Returns:
        For files the field with such a suffix, for other words the field of text, for anything else
        the first reference.
    """
    cells = dataset.reader.cells(column_named(dataset, name))
    blank = (cell is None or isinstance(cell, str) and not cell.strip() for cell in cells)
    first = next((cell for cell, empty in zip(cells, blank) if not empty), None)
    if first is None:
        raise NotApplicable(f"no record of {dataset.name!r} has a target in {name!r}")
    # a path, also one in object storage, or a name of a file in a table
    suffix = PurePath(first).suffix if isinstance(first, str) else getattr(first, "suffix", "")
    for field in references:
        if suffix.lower() in dataset.fields[field].suffixes:
            return field
    return text if isinstance(first, str) else references[0]


def queries_of(test: Embedded, reference: str, change: Embedded, target: Embedded) -> Queries:
    """The queries of the records that have a reference, a change and a target.

    Args:
        test: N test records with the field `reference`.
        reference: The field of what is changed.
        change: The same records with one field, of words.
        target: The same records with one field, of what is looked for.
    """
    parts = test, change, target
    names = reference, *change.sources, *target.sources
    columns = [part.aligned[name] for part, name in zip(parts, names)]
    rows = np.intersect1d(columns[0].rows, np.intersect1d(columns[1].rows, columns[2].rows))
    # the gallery: targets, and references if they are of the same field
    in_gallery = [2, 0] if names[0] == names[2] else [2]
    content = torch.cat([parts[i].content[names[i]] for i in in_gallery])
    vectors = torch.cat([vectors_of(columns[i]) for i in in_gallery])
    same, number = torch.unique(content, return_inverse=True)
    # of equal values any vector
    gallery = vectors.new_zeros(len(same), vectors.shape[1]).index_copy(0, number, vectors)
    of_targets, of_references = number[: len(columns[2])], number[len(columns[2]) :]
    right = of_targets[place_of(columns[2], rows)]
    left_out = torch.full_like(right, -1)
    if len(in_gallery) > 1:
        left_out = of_references[place_of(columns[0], rows)]
        left_out = torch.where(left_out == right, -1, left_out)  # nothing was changed
    v, m = (vectors_of(column)[place_of(column, rows)] for column in columns[:2])
    return Queries(rows, v, m, gallery, right, left_out)


def place_of(column: Column, rows: np.ndarray) -> Tensor:
    """Where some rows are in a column that has them all, in ascending order."""
    return torch.searchsorted(column.rows.contiguous(), torch.from_numpy(rows))


def places(query_ND: Tensor, queries: Queries, abs_cosine: bool = False) -> tuple[Tensor, Tensor]:
    """Ranks of the right values.

    Args:
        query_ND: Vectors.
        queries: Their gallery, what is right and what is left out.
        abs_cosine: Whether to compare by |cosine|.

    Returns:
        Two (N,) float64: how many wrong values are nearer, and how many are as near.
    """
    query, gallery = normalize(query_ND.float(), dim=1), normalize(queries.gallery.float(), dim=1)
    step = max(1, MAX_SIMILARITIES // len(gallery))
    ahead, tied = [], []
    for start in range(0, len(query), step):
        near = query[start : start + step] @ gallery.T
        near = near.abs() if abs_cosine else near
        right, out = queries.right[start : start + step], queries.left_out[start : start + step]
        best = near.gather(1, right[:, None])
        some = out >= 0
        near[some, out[some]] = -torch.inf
        ahead.append((near > best).sum(1))
        tied.append((near == best).sum(1) - 1)
    return torch.cat(ahead).double(), torch.cat(tied).double()


def metrics_of(
    query_ND: Tensor, queries: Queries, recall_at: Sequence[int], what: str, abs_cosine: bool
) -> list[Row]:
    """A row for each metric.

    Args:
        query_ND: Vectors.
        queries: See `places`.
        recall_at: The k of Recall@k.
        what: Added to the name of the metric.
        abs_cosine: See `places`.
    """
    ahead, tied = places(query_ND, queries, abs_cosine)
    equal, size = torch.ones_like(ahead), len(queries.gallery) - (queries.left_out >= 0).double()
    values = {f"recall@{k}": hits(ahead, tied, equal, k) for k in recall_at}
    chances = {f"recall@{k}": (k / size).clamp(max=1) for k in recall_at}
    values["MRR"] = reciprocal_ranks(ahead, tied, equal)
    chances["MRR"] = reciprocal_ranks(torch.zeros_like(ahead), size - 1, equal)
    return [
        {
            "metric": f"{name}{what}",
            "value": float(value.mean()),
            "chance": float(chances[name].mean()),
            "n": len(value),
            "outcome": Mean(queries.rows, value.numpy()),
        }
        for name, value in values.items()
    ]


class ComposedRetrieval(Protocol):
    """A value and words that change it find what it becomes."""

    name, needed = "composed_retrieval", (no_record, every_record)
    default = False
    reads_tokens = True  # columns beside the run's fields are not among cached features
    rank = 119
    headlines = tuple(
        f"recall@10{what}" for what in ("", ", average", ", reference alone", ", words alone")
    )

    @dataclass(frozen=True)
    class Options:
        """What is read.

        Args:
            change: The column that says what to change.
            target: The column of what it becomes.
            reference: The field of what is changed, by default all but the one of words.
            text: The field by which words are read; by default that of the run's combiner.
            recall_at: The k of Recall@k.
            own_reference: Rank the own reference of a query too.
        """

        change: str = "change"
        target: str = "changed"
        reference: str = ""
        text: str = ""
        recall_at: Sequence[int] = (10, 1, 5, 50)
        own_reference: bool = False

    def run(self, context: Context) -> Result:
        test, options, encoder = context.test, context.options, context.encoder
        forward = test.perturbed_forward
        if forward is None or encoder is None:
            raise NotApplicable("it embeds words and targets, and these records are vectors only")
        text = change_field(encoder)
        if options.text or not text:
            if not context.text_fields():
                have = ", ".join(encoder.fields)
                raise NotApplicable(f"it needs a text field; this encoder has {have}")
            text = context.text_field(options.text)
        references = [f for f in encoder.fields if f != text]
        if not references:
            raise NotApplicable(f"it needs a field beside {text!r}, whose values words change")
        if options.reference:
            if options.reference not in references:
                raise unknown("field that can be changed", options.reference, references)
            references = [options.reference]
        dataset = forward.dataset
        for option, wanted in (("change", options.change), ("target", options.target)):
            try:
                column_named(dataset, wanted)
            except AmodalError as error:
                raise NotApplicable(
                    f"{error} It is read as {WHAT[option]}: name the column by "
                    f"--protocol.{option} COLUMN"
                ) from None
        field = field_of_targets(dataset, options.target, references, text)

        def embedded(field: str, column: str) -> Embedded:
            records = read_from(dataset, field, column)
            return embed_records(
                encoder,
                records,
                forward.indices,
                batch=forward.batch,
                device=forward.device,
                labels=False,
            )

        change, target = embedded(text, options.change), embedded(field, options.target)
        rows: list[Row] = []
        for reference in references:
            if reference not in test.sources or not change.sources or not target.sources:
                continue  # no test record has it
            queries = queries_of(test, reference, change, target)
            if len(queries.rows) < MIN_RECORDS:
                continue
            if options.own_reference:
                left_out = torch.full_like(queries.left_out, -1)
                queries = replace(queries, left_out=left_out)
            v, m = queries.reference, queries.change
            asked = {"": compose(encoder, v, m)}
            if change_field(encoder):
                asked[", average"] = mean_of_units(v, m)
            asked |= {", reference alone": v, ", words alone": m}
            for what, query in asked.items():
                shared = {"source": f"{reference}+{options.change}", "target": options.target}
                found = metrics_of(query, queries, options.recall_at, what, test.abs_cosine)
                rows += [{**shared, **row, "gallery": len(queries.gallery)} for row in found]
        if not rows:
            raise NotApplicable(
                f"fewer than {MIN_RECORDS} of the {len(test)} test records have a reference "
                f"({' or '.join(references)}), {options.change!r} and {options.target!r}"
            )
        spec = {**vars(options), "text_field": text, "target_field": field, "space": "aligned"}
        spec |= {"recall_at": list(options.recall_at), "test": len(test)}
        if unread := len(change.bad) + len(target.bad):
            spec["note"] = f"{unread:,} changes or targets could not be read and are left out"
        return Result(self.name, spec, rows)


WHAT = {"change": "what to change", "target": "what is looked for"}
PROTOCOL = ComposedRetrieval()
