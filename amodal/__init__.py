"""Self-supervised learning on any mix of modalities.

model = amodal.pretrain("clip", "photos/", "runs/first")
model.evaluate("photos/", label="folder")
model.search(text="a red boat")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names of `__getattr__`, for type checkers
    from amodal.core.recipe import Recipe as Recipe
    from amodal.data import Dataset as Dataset
    from amodal.data import Mixture as Mixture
    from amodal.data import as_dataset as as_dataset
    from amodal.data import init as init
    from amodal.data import open as open
    from amodal.estimator import Embedder as Embedder
    from amodal.methods.contract import Method as Method
    from amodal.model import Model as Model
    from amodal.model import load as load
    from amodal.model import pretrain as pretrain
    from amodal.nn.encoder import Encoder as Encoder
    from amodal.run_ensemble import Ensemble as Ensemble
    from amodal.studies.align import align as align
    from amodal.studies.compare import compare as compare

__version__ = "0.1.0"

_HOME = {
    "Dataset": "amodal.data",
    "Embedder": "amodal.estimator",
    "Encoder": "amodal.nn.encoder",
    "Ensemble": "amodal.run_ensemble",
    "Method": "amodal.methods.contract",
    "Mixture": "amodal.data",
    "Model": "amodal.model",
    "Recipe": "amodal.core.recipe",
    "align": "amodal.studies.align",
    "as_dataset": "amodal.data",
    "compare": "amodal.studies.compare",
    "init": "amodal.data",
    "load": "amodal.model",
    "open": "amodal.data",
    "pretrain": "amodal.model",
}
__all__ = sorted(_HOME)
_ROOMS = ("data", "methods")
"""Which a loop of one's own needs, without an import of its own."""


def __getattr__(name: str) -> Any:
    # imported on first use, so that `import amodal` does not wait for torch
    import importlib

    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"amodal.{name}")
    raise AttributeError(f"module 'amodal' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
