"""Files of features, of whichever kind: what is there already, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amodal.core import AmodalError


def check_made_by(file: Path, before: str, made_by: str | None) -> None:
    """Check that a file that is there may be left as it is, or made anew.

    Args:
        file: That will be written.
        before: What made it, "" where it does not say.
        made_by: The encoder and the field, if they must be the same; None where it is made anew.

    Raises:
        AmodalError: If something else is there.
    """
    if not before:
        raise AmodalError(
            f"{file} is there already and holds no features of amodal; choose another name, or "
            "remove it first"
        )
    if made_by is not None and before != made_by:
        raise AmodalError(
            f"{file} holds features of another encoder or field; choose another folder, or remove "
            "that one"
        )


@dataclass
class Unreadable:
    """Values of a field that could not be read.

    Attributes:
        name: Of the field.
        count: How many so far.
        first: The key of the first one, and why; "" without one.
    """

    name: str
    count: int = 0
    first: str = ""

    def add(self, key: str, error: Exception) -> None:
        """Count another one."""
        self.count, self.first = self.count + 1, self.first or f"{key}: {error}"

    @property
    def note(self) -> str:
        """For a bar of records."""
        return f"records, {self.count} unreadable" if self.count else "records"

    def say(self) -> None:
        """Say how many there were, if any."""
        if self.count:
            from amodal.console import stderr

            line = f"{self.count} values of {self.name} could not be read, such as {self.first}"
            stderr().print(line, highlight=False, markup=False, soft_wrap=True)
