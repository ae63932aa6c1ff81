"""A protocol: one question about a run, as an object that says what it needs.

    class Cosine(Protocol):
        "Mean cosine of the two values of a record."
        name, needs = "cosine", (TWO_FIELDS,)

        @dataclass(frozen=True)
        class Options:
            pairs: int = 1000

        def run(self, context):
            a, b = context.test.sources[:2]
            ...
            return Result(self.name, {"pairs": context.options.pairs}, [row])

`evaluate(model, data, protocols=[Cosine()])`, `--protocols mine.py:Cosine`, or an entry point of
the group `amodal.protocols` run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from amodal.core import AmodalError
from amodal.evaluate import report_table
from amodal.evaluate.context import Context
from amodal.evaluate.label_choice import LabelChoice
from amodal.evaluate.needed_records import (
    EVERYTHING,
    Mask,
    Needed,
    PartRecords,
    no_record,
)
from amodal.evaluate.needs import Need
from amodal.evaluate.options import Option, filled, of_dataclass, of_function
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row


class Protocol:
    """One question about a run; subclass it.

    Attributes:
        name: What it is called, in reports too.
        needs: What it cannot do without. Where a need is not met it is skipped, and the reason is
            reported.
        default: Whether it is run where no protocol is named.
        rank: Protocols are run and shown by ascending rank, then by name.
        yardstick: Whether it is measured on simple features of the records too, see
            `amodal.evaluate.yardsticks`. It may read the vectors and labels of the context only.
        joined: Whether it is measured on the encoder's vectors with simple features beside them, of
            those with `yardstick`.
        against_chance: Whether a report's sentence says where it is not above chance, though it
            has no yardstick.
        compares_fields: Whether it reads the space where fields are compared. That of simple
            features is fitted on training records, also where the protocol needs none of them.
        reads_tokens: Whether it reads parts of values, which a cache of mean features lacks.
        needed: Which training and which test records it reads, see
            `amodal.evaluate.needed_records`. It sees no vectors of others.
        headlines: The metrics that a table shows, None for the usual ones.
        measure: A plain function (train, test, *, options) -> Result. A protocol without one has
            its own `run`.
        Options: A dataclass of the options, for a protocol without `measure`.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]] = ()
    default: ClassVar[bool] = True
    rank: ClassVar[int] = 1000
    yardstick: ClassVar[bool] = False
    joined: ClassVar[bool] = True
    against_chance: ClassVar[bool] = False
    compares_fields: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False
    needed: ClassVar[tuple[Needed, Needed]] = EVERYTHING
    headlines: ClassVar[tuple[str, ...] | None] = None
    measure: ClassVar[Callable[..., Result] | None] = None
    Options: ClassVar[type | None] = None

    @cached_property
    def options(self) -> dict[str, Option]:
        """Name -> option."""
        needed = {option.name: option for need in self.needs for option in need.options}
        measure = type(self).measure
        if measure is not None:
            return needed | of_function(measure, self._provided() | {"seed"})
        return needed | (of_dataclass(self.Options) if self.Options is not None else {})

    def filled(self, values: Mapping[str, Any]) -> SimpleNamespace:
        """The options of this protocol among `values`, others at their defaults.

        Raises:
            AmodalError: For a wrong type.
        """
        return filled(self.options.values(), values, self.name)

    def labels(self, labels: LabelChoice) -> list[str | None]:
        """The labels to run for, [None] for a protocol that reads none."""
        for need in self.needs:
            chosen = need.labels(labels)
            if chosen is not None:
                return list(chosen)
        return [None]

    def usual(self, labels: LabelChoice) -> bool:
        """Whether it is run where no protocol is named."""
        return self.default and all(need.usual(labels) for need in self.needs)

    def check(self, context: Context) -> None:
        """Raise NotApplicable for the first need that is not met."""
        for need in self.needs:
            need.check(context)

    def may_apply(self, context: Context) -> bool:
        """Whether its needs may be met, by what is known before any record is embedded."""
        return all(need.met_by(context) for need in self.needs)

    def needed_records(
        self, parts: tuple[PartRecords, PartRecords], context: Context
    ) -> tuple[Mask, Mask]:
        """The records that it reads; none where it is known not to apply.

        Args:
            parts: What is known of the training and test records.
            context: What it will be run on, without embedded records.

        Returns:
            (N,) bool for the training records, and (M,) bool for the test records.
        """
        chosen = self.needed if self.may_apply(context) else (no_record, no_record)
        train, test = (choose(part, context) for choose, part in zip(chosen, parts))
        return train, test

    def run(self, context: Context) -> Result:
        """Measure.

        Raises:
            NotApplicable: Where the data does not have what is measured.
        """
        measure = type(self).measure
        if measure is None:
            raise AmodalError(
                f"the protocol {self.name} ({type(self).__name__}) has neither `run` nor `measure`"
            )
        return measure(context.train, context.test, **self.arguments(context))

    def arguments(self, context: Context) -> dict[str, Any]:
        """Keyword arguments of `measure`: the options, the seed, and what the needs provide."""
        values, measure = dict(vars(context.options)), type(self).measure
        if measure is not None and "seed" in of_function(measure):
            values["seed"] = context.seed
        for need in self.needs:
            values |= need.arguments(context)
        return values

    def shortened(self, rows: Sequence[Row]) -> list[Row]:
        """What a table shows of many rows: means over targets, or over subsets of one size."""
        return report_table.means(rows)

    def remark(self, rows: Sequence[Row]) -> str:
        """What a report's sentence adds about this protocol; "" for nothing.

        Args:
            rows: Of this protocol, with the values of what is compared.
        """
        return ""

    def draw(self, result: Result, path: Path) -> Path | None:
        """Draw the result.

        Args:
            result: What `run` returned.
            path: A PNG file.

        Returns:
            The path; None for a protocol without a picture.
        """
        return None

    def _provided(self) -> set[str]:
        return {name for need in self.needs for name in need.provides}
