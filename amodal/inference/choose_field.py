"""The one field that something is done with."""

from __future__ import annotations

from collections.abc import Sequence

from amodal.core import AmodalError, unknown


def choose_field(
    fitting: Sequence[str],
    wanted: str | None,
    present: Sequence[str] = (),
    *,
    what: str,
    option: str = "--field",
) -> str:
    """Choose a field.

    Args:
        fitting: Fields that will do, at least one.
        wanted: What the user asked for; None or "" for the only one, or the only one that is
            present.
        present: Fields of the data.
        what: Fields that will do, for messages: "with pictures".
        option: That names one.

    Raises:
        AmodalError: For one that will not do, and for a choice that is open.
    """
    if wanted:
        if wanted not in fitting:
            raise unknown(f"field {what} in this run", wanted, fitting)
        return wanted
    choice = [name for name in fitting if name in present] or fitting
    if len(choice) > 1:
        raise AmodalError(
            f"this run has {len(choice)} fields {what}; say which: {option} "
            f"{f' or {option} '.join(choice)}"
        )
    return choice[0]
