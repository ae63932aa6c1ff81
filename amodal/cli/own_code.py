"""`--method` and `--backbone`: code of one's own that a run was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, arg

from amodal.cli.options import pairs

if TYPE_CHECKING:
    from amodal.model import Model


@dataclass(frozen=True)
class OwnCode:
    """Where the code is that a run cannot bring along, for the verbs that open the run.

    Args:
        method: The method's function, FILE.py:NAME or PACKAGE.MODULE:NAME.
        backbones: FIELD=FILE.py:NAME, each a module, its class, or a function that makes one.
    """

    method: Annotated[
        str, arg(metavar="FILE.py:NAME", help="the method, if RUN is of a method of your own")
    ] = ""
    backbones: Annotated[
        tuple[str, ...],
        arg(
            name="backbone",  # the word of `amodal pretrain`
            metavar="FIELD=FILE.py:NAME",
            help="the backbones, if RUN has backbones of your own",
        ),
    ] = ()

    def open(self, run: Path) -> Model:
        """The model of a run."""
        from amodal.model import load

        return load(run, method=self.method or None, backbones=self._modules())

    @contextmanager
    def supplied(self, run: Path) -> Iterator[None]:
        """Within it, whatever opens the run is given the code."""
        if not self.method and not self.backbones:
            yield
            return
        from amodal.core.part import supplied
        from amodal.methods.saved import read_spec, user_code

        with supplied(user_code(read_spec(run), self.method or None, self._modules())):
            yield

    def _modules(self) -> dict[str, Any]:
        from amodal.core.references import load_reference

        return {f: load_reference(reference) for f, reference in pairs(self.backbones).items()}


Code = Annotated[OwnCode, OmitArgPrefixes]
NONE = OwnCode()
