"""What protocols need.

A need decides which labels a protocol is run for, when the protocol is skipped, and which arguments
it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from amodal.core.protocols import Generates
from amodal.evaluate.label_choice import LabelChoice
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.options import Option
from amodal.inference.class_prompts import Classes, read_classes
from amodal.inference.classify import NoClassSpace, check_space
from amodal.inference.embed import Embedded

if TYPE_CHECKING:
    from amodal.evaluate.context import Context


class Need:
    """One thing that a protocol needs; subclass it for another.

    Attributes:
        name: What lists call it.
        provides: Parameters of a measuring function that `arguments` fills in.
        options: What a user may choose about it.
    """

    name = ""
    provides: frozenset[str] = frozenset()
    options: tuple[Option, ...] = ()

    def usual(self, labels: LabelChoice) -> bool:
        """Whether a protocol with this need is tried where no protocol is named."""
        return True

    def labels(self, labels: LabelChoice) -> Sequence[str | None] | None:
        """The labels to run the protocol for, one by one; None if this need has no say in it."""
        return None

    def check(self, context: Context) -> None:
        """Raise NotApplicable, with the reason, where the need is not met."""

    def met_by(self, context: Context) -> bool:
        """Whether it may be met, by what is known before any record is embedded."""
        return True

    def arguments(self, context: Context) -> dict[str, Any]:
        """Values of the parameters in `provides`."""
        return {}


class Label(Need):
    """A label that is one column.

    Args:
        optional: Whether the protocol also runs without one and measures less.
    """

    name = "label"
    provides = frozenset({"label"})

    def __init__(self, *, optional: bool = False):
        self.optional = optional

    def usual(self, labels: LabelChoice) -> bool:
        return self.optional or bool(labels.single) or not labels.times

    def labels(self, labels: LabelChoice) -> Sequence[str | None]:
        return labels.single or [None]

    def met_by(self, context: Context) -> bool:
        return self.optional or context.label is not None

    def check(self, context: Context) -> None:
        if context.label is None and not self.optional:
            times = context.labels.times
            raise NotApplicable(
                f"it needs a label, and {times[0]!r} is a time until an event"
                if times
                else "it needs a label and the data has none "
                "(declare one in dataset.toml: [labels.NAME])"
            )

    def arguments(self, context: Context) -> dict[str, Any]:
        return {} if context.label is None else {"label": context.label}


class SurvivalLabel(Need):
    """A time, and whether the event came by then: TIME,EVENT."""

    name = "survival label"
    provides = frozenset({"label"})

    def usual(self, labels: LabelChoice) -> bool:
        return bool(labels.times)

    def labels(self, labels: LabelChoice) -> Sequence[str | None]:
        return labels.times or [labels.declared or None]

    def met_by(self, context: Context) -> bool:
        return context.label is not None

    def check(self, context: Context) -> None:
        if context.label is None:
            raise NotApplicable(NO_TIME)

    def arguments(self, context: Context) -> dict[str, Any]:
        return {"label": context.label}


NO_TIME = "it needs a time and an event: label TIME,EVENT, or event = … of a time in dataset.toml"


class TextPrompts(Need):
    """A text field, so that sentences can be embedded. The option `text` names it, "" for the
    first."""

    name = "text prompts"
    provides = frozenset({"text", "embed_text"})
    options = (Option("text", str, ""),)

    def met_by(self, context: Context) -> bool:
        return bool(context.text_fields())

    def check(self, context: Context) -> None:
        if not context.text_fields():
            have = ", ".join(context.encoder.fields if context.encoder is not None else ())
            raise NotApplicable(f"it needs a text field; this encoder has {have}")
        context.text_field(context.options.text)

    def arguments(self, context: Context) -> dict[str, Any]:
        field = context.text_field(context.options.text)
        return {"text": field, "embed_text": lambda sentences: context.embed_text(sentences, field)}


class ClassNames(Need):
    """A field in which classes can be described: a text in the space of other fields, or a table
    where the cells of classes are known (the option `classes`) or a method compares attributes."""

    name = "class names"

    def met_by(self, context: Context) -> bool:
        fields = context.encoder.fields.values() if context.encoder is not None else ()
        return any(modality.takes_prompts or modality.is_row for modality in fields)

    def check(self, context: Context) -> None:
        if context.encoder is None:
            raise NotApplicable("it compares records with names, which takes an encoder")
        options, method = context.options, getattr(context.model, "method", None)
        classes = Classes({}) if options.classes is None else read_classes(options.classes)
        try:
            check_space(context.encoder, method, classes, options.by or options.text)
        except NoClassSpace as reason:
            raise NotApplicable(str(reason)) from None


class Head(Need):
    """A run with a head that predicts labels.

    Args:
        optional: Whether the protocol also runs without one, or beside the run, and measures less.
    """

    name = "head"
    provides = frozenset({"head"})

    def __init__(self, *, optional: bool = False):
        self.optional = optional

    def met_by(self, context: Context) -> bool:
        return self.optional or context.head is not None

    def check(self, context: Context) -> None:
        if context.head is None and not self.optional:
            raise NotApplicable(NO_HEAD)

    def arguments(self, context: Context) -> dict[str, Any]:
        # beside the run are an untrained encoder and frozen features, of which it is no head
        hidden = self.optional and context.column != "trained"
        return {"head": None if hidden else context.head}


NO_HEAD = "it measures the head of a run that learnt to predict labels (amodal adapt RUN --label …)"


class Writer(Need):
    """A run whose method generates a field, such as translations."""

    name = "writer"
    provides = frozenset({"writer", "writes"})

    def met_by(self, context: Context) -> bool:
        return isinstance(getattr(context.model, "method", None), Generates)

    def check(self, context: Context) -> None:
        if not self.met_by(context):
            raise NotApplicable("this run's method writes no text; cuni_mmt, deepvs and coca do")

    def arguments(self, context: Context) -> dict[str, Any]:
        # beside the run are encoders of the same records, which write nothing
        method = getattr(context.model, "method", None)
        return {"writer": method, "writes": context.column == "trained"}


class ChangedRecords(Need):
    """Records whose values can be corrupted and embedded anew. Cached features do not do."""

    name = "changed records"

    def check(self, context: Context) -> None:
        if context.test.perturbed_forward is None:
            raise NotApplicable(
                "it damages values and embeds them anew, and these records are vectors only"
            )


class TwoFields(Need):
    """Test records with two fields or more."""

    name = "two fields"

    def met_by(self, context: Context) -> bool:
        return context.dataset is None or len(context.dataset.fields) > 1

    def check(self, context: Context) -> None:
        require_two_fields(context.test)


def require_two_fields(test: Embedded) -> None:
    """Raise NotApplicable unless the records have two fields or more."""
    if len(test.sources) < 2:
        raise NotApplicable(
            f"it needs two fields, and there is only {', '.join(test.sources) or 'none'}"
        )


LABEL = Label()
OPTIONAL_LABEL = Label(optional=True)
SURVIVAL_LABEL = SurvivalLabel()
TEXT_PROMPTS = TextPrompts()
CLASS_NAMES = ClassNames()
HEAD = Head()
OPTIONAL_HEAD = Head(optional=True)
WRITER = Writer()
CHANGED_RECORDS = ChangedRecords()
TWO_FIELDS = TwoFields()
