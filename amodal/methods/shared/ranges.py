"""Ranges of the options of methods."""

from __future__ import annotations

from amodal.core import AmodalError


def check_at_least(least: int, **options: int) -> None:
    """Raise AmodalError for the first whole number below `least`.

    Args:
        least: The smallest that will do.
        **options: Name -> value.
    """
    for name, value in options.items():
        if value < least:
            raise AmodalError(f"{name} must be at least {least}, not {value}")


def check_positive(**options: float) -> None:
    """Raise AmodalError for the first number that is not above zero.

    Args:
        **options: Name -> value.
    """
    for name, value in options.items():
        if not value > 0:
            raise AmodalError(f"{name} must be above 0, not {value:g}")


def check_share(**options: float) -> None:
    """Raise AmodalError for the first number that is no share of the steps.

    Args:
        **options: Name -> value.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise AmodalError(f"{name} must be a share of the steps, from 0 to 1, not {value:g}")
