"""Which records to pretrain on: rules that score them, and the choice of some by a rule."""

from amodal.selection.result import Selection as Selection
from amodal.selection.rules import RULES as RULES
from amodal.selection.select import curate as curate

__all__ = ["RULES", "Selection", "curate"]
