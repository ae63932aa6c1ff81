"""Generation: how close are the texts that a method writes to those of the records?

BLEU (Papineni et al. 2002), chrF (Popović 2015) and METEOR of exact words (Banerjee and Lavie 2005,
without stems and synonyms) of the whole collection, for methods that generate a field
(`amodal.core.protocols.Generates`): translations, captions. Beside them is what needs no writer:
the text of the training record whose other field is nearest. Chance is the text of another test
record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from amodal.core.embeddings import vectors as vectors_of
from amodal.core.protocols import Generates
from amodal.core.regular_file import regular
from amodal.data import Dataset
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needs import WRITER
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.open_set import nearest
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.evaluate.summaries import derangement
from amodal.inference.embed import Embedded
from amodal.inference.generate import generated
from amodal.methods.contract import Method
from amodal.stats.bleu import bleu
from amodal.stats.chrf import chrf
from amodal.stats.meteor import meteor

METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "BLEU": bleu,
    "chrF": chrf,
    "METEOR (exact)": meteor,
}
MIN_RECORDS = 2


def generation(
    train: Embedded,
    test: Embedded,
    *,
    writer: Method | None = None,
    writes: bool = True,
    beams: int = 4,
    sources: Sequence[str] | None = None,
    seed: int = 0,
) -> Result:
    """Score the texts of test records that a method writes from their other fields.

    Args:
        train: Training records, among which the nearest is looked for.
        test: Test records; those that lack the text are left out.
        writer: The method.
        writes: Whether it is asked; else only nearest records are scored.
        beams: Of the beam search.
        sources: Fields whose nearest record is scored, all unless set.
        seed: Of the draw of other records, for chance.

    Raises:
        NotApplicable: Without a method that writes, or with fewer than two texts.
    """
    if not isinstance(writer, Generates):
        raise NotApplicable("no method is there that writes a text")
    field = writer.generated_field
    wanted, known = texts_of(test, field), texts_of(train, field)
    if len(wanted) < MIN_RECORDS:
        raise NotApplicable(
            f"{len(wanted)} test records have a text in {field!r}, and {MIN_RECORDS} are needed"
        )
    rows: list[Row] = []
    others = [s for s in test.sources if s != field]
    forward = test.perturbed_forward
    if writes and forward is not None:
        at = np.asarray(forward.indices)[list(wanted)]
        # without the field itself, so that nothing of it is read
        records = forward.dataset.select([f for f in forward.dataset.fields if f != field])
        made = generated(writer, records, at, beams=beams)
        pairs = [(m, r) for m, r in zip(made, wanted.values()) if m is not None]
        if len(pairs) >= MIN_RECORDS:
            texts, references = zip(*pairs)
            rows += scored("+".join(others), field, texts, references, "", seed)
    for source in others if sources is None else sources:
        rows += _nearest(train, test, source, field, known, wanted, seed)
    if not rows:
        raise NotApplicable(f"no test record has a field to write {field!r} from")
    spec = {"field": field, "beams": beams, "seed": seed}
    return Result("generation", spec | {"train": len(train), "test": len(test)}, rows)


def scored(
    source: str, target: str, made: Sequence[str], references: Sequence[str], what: str, seed: int
) -> list[Row]:
    """A row for each metric.

    Args:
        source: What the texts were made from.
        target: The field.
        made: N texts.
        references: N texts of the records.
        what: Added to the name of the metric.
        seed: Of the draw of other records.
    """
    others = [references[i] for i in derangement(len(references), seed)]
    shared = {"source": source, "target": target, "n": len(made)}
    return [
        shared
        | {
            "metric": f"{name}{what}",
            "value": metric(made, references),
            "chance": metric(others, references),
        }
        for name, metric in METRICS.items()
    ]


def texts_of(part: Embedded, field: str) -> dict[int, str]:
    """Row of the part -> its text in a field, of the rows that have one."""
    forward = part.perturbed_forward
    if forward is None:
        raise NotApplicable("it reads texts of records, and these are vectors only")
    found = {}
    for row, index in enumerate(np.asarray(forward.indices).tolist()):
        value = _raw(forward.dataset, index, field)
        if value:
            found[row] = value
    return found


def _raw(dataset: Dataset, index: int, field: str) -> str:
    if field not in dataset.fields or not dataset.present(field)[index]:
        return ""
    value = dataset.raw(index, field)
    if isinstance(value, Path):
        value = regular(value).read_bytes()
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join(text.split())


def _nearest(
    train: Embedded,
    test: Embedded,
    source: str,
    field: str,
    known: dict[int, str],
    wanted: dict[int, str],
    seed: int,
) -> list[Row]:
    """Rows of the text of the training record that is nearest in one field."""
    columns = []
    for part, texts in ((train, known), (test, wanted)):
        column = part.features[source]
        has = torch.tensor([int(row) in texts for row in column.rows], dtype=torch.bool)
        columns.append(column.at(has))
    keys, queries = columns
    if not len(keys) or len(queries) < MIN_RECORDS:
        return []
    chosen = keys.rows[nearest(vectors_of(queries).float(), vectors_of(keys))].tolist()
    references = [wanted[row] for row in queries.rows.tolist()]
    made = [known[row] for row in chosen]
    return scored(source, field, made, references, ", nearest record", seed)


class Generation(Protocol):
    """Texts that the method writes, beside those of the records."""

    name, needs = "generation", (WRITER,)
    default = False
    rank = 118
    headlines = (*METRICS, *(f"{name}, nearest record" for name in METRICS))
    measure = staticmethod(generation)


PROTOCOL = Generation()
