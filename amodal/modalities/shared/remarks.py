"""What is said of a field beside its content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from amodal.modalities.shared.base import Modality, Raw


class Remarks:
    """The remarks of a modality that has nothing to remark."""

    def comment(self, raws: Sequence[Raw]) -> str:
        """What to know about the parameters that `infer` chose, for dataset.toml; "" for nothing.

        Args:
            raws: some raw values.
        """
        return ""

    def doubt(self, raws: Sequence[Raw]) -> str:
        """What else the values may be, and the line of dataset.toml that says so; "" for no doubt.

        Args:
            raws: some raw values.
        """
        return ""

    def as_in(self, here: Any) -> Self:
        """This field of a run, with what that of the data says of its files, which is no matter of
        the run: such as which of the scans of a file is read.

        Args:
            here: the field of the data, of the same kind.
        """
        return self

    def mismatch(self, trained: Modality) -> str:
        """How values of this field differ in scale or time from those of a run; "" where they do
        not, or one of the two does not say.

        Args:
            trained: the field of the run, which reads these values as its own.

        Returns:
            What follows "the field has", such as "10 steps a second, and the run was trained on
            50".
        """
        return ""
