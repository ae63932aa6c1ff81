"""Options of classes by name, for predict, evaluate and cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from amodal.cli.options import listed
from amodal.errors import AmodalError

NOTE = 'names, as in "tench,goldfish", or a .csv, .toml, .json or .txt file of them'


@dataclass(frozen=True)
class ClassOptions:
    """Classes by name: of records that no label was learnt from.

    Args:
        classes: What they are called, and what is known of them.
        templates: Sentences around a name.
        multi_label: Whether a record may have any number of them.
        seen: Those that the run was trained on.
        stacking: What is subtracted from the scores of these.
        by: The field that classes are described in.
    """

    classes: Annotated[
        str,
        arg(
            metavar="A,B|FILE", help=f"classes, seen in training or not: {NOTE}, with descriptions"
        ),
    ] = ""
    templates: Annotated[
        tuple[str, ...],
        arg(
            metavar="TEXT",
            help='sentences such as "a photo of a {}", a .txt file of them, or a set that ships: '
            "name, photo, drawing, recording, report",
        ),
    ] = ()
    multi_label: Annotated[bool, arg(help="a record may have any number of the classes")] = False
    seen: Annotated[str, arg(metavar="A,B", help="the classes that the run was trained on")] = ""
    stacking: Annotated[
        float, arg(help="subtracted from the scores of seen classes (calibrated stacking)")
    ] = 0.0
    by: Annotated[
        str,
        arg(
            metavar="FIELD",
            help="the field that classes are described in; by default the first text",
        ),
    ] = ""

    def chosen(self) -> dict[str, Any]:
        """The options that are set.

        Raises:
            AmodalError: For others than `classes` without it.
        """
        options: dict[str, Any] = {
            "classes": self.classes,
            "templates": self.templates,
            "multi_label": self.multi_label,
            "seen": listed(self.seen),
            "stacking": self.stacking,
            "by": self.by,
        }
        return {name: value for name, value in options.items() if value}


def need_classes(options: dict[str, Any]) -> None:
    """Raise an AmodalError for options of classes without any."""
    if options and not options.get("classes"):
        name = next(iter(options)).replace("_", "-")
        raise AmodalError(f"--{name} is of classes by name; say which: --classes {NOTE}")


ByName = Annotated[ClassOptions, OmitArgPrefixes]
NO_CLASSES = ClassOptions()
