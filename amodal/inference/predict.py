"""A method that was kept whole, for what it tells of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from amodal import methods
from amodal.core import AmodalError, Column
from amodal.data import Dataset
from amodal.inference.forward_passes import in_order
from amodal.methods.contract import Method
from amodal.nn.bounded import Bounded
from amodal.nn.config import is_old
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target, predictions
from amodal.nn.old_runs import new_names
from amodal.nn.saved import MADE_UP, built, fill, read_tensors, size_of_file


@dataclass(frozen=True)
class Teller:
    """method: has `outputs`; targets: what they mean."""

    method: Method
    targets: tuple[Target, ...]

    @torch.no_grad()
    def on(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        *,
        batch: int = 256,
        progress: Callable[[int], object] | None = None,
    ) -> Column:
        """(N, outputs) on the CPU, of those of the records at `indices` that it can tell of, numbered from zero."""
        device, parts, sizes = next(self.method.parameters()).device, [], []
        for part in in_order(dataset, indices, batch):
            parts.append(self.method.predict(part.to(device)).to("cpu"))
            sizes.append(part.size)
            if progress is not None:
                progress(part.size)
        return Column.stack(parts, sizes)

    def predictions(self, told: Column) -> dict[str, Tensor]:
        """See `amodal.nn.heads.supervised.predictions`."""
        return predictions(self.targets, told)


def teller(folder: str | Path, encoder: Encoder, config: dict, device: torch.device) -> Teller | None:
    """The method of a run that tells labels by more than a head on its encoder's features; None for other runs. encoder: the run's, whose
    weights it takes. Raises AmodalError if what was kept of it is damaged."""
    if "tells" not in config:
        return None
    said = Path(folder) / "config.json"
    try:
        targets = tuple(Target.read(t) for t in config["tells"])
    except (KeyError, OverflowError, *MADE_UP) as e:
        raise no_method(said, e) from e
    return Teller(kept_whole(folder, encoder, config).to(device), targets)


def kept_whole(folder: str | Path, encoder: Encoder, config: dict) -> Method:
    """The method of a run whose method.safetensors holds what is not in the encoder, in evaluation mode on the CPU. encoder: the run's,
    whose weights it takes. Raises AmodalError if what was kept of it is damaged."""
    file, said = Path(folder) / "method.safetensors", Path(folder) / "config.json"
    own = {f"encoder.{n}": v for n, v in encoder.state_dict().items()}
    tensors, numbers = size_of_file(file)
    before = built(config, "before", Path(folder), Path(folder) / "model.safetensors")
    try:
        options = {n: tuple(v) if isinstance(v, list) else v for n, v in config["options"].items()}
        with Bounded(tensors + len(own), numbers + sum(v.numel() for v in own.values()), str(said)):
            method = methods.build(config["method"], before, **options)
    except (KeyError, OverflowError, *MADE_UP) as e:
        raise no_method(said, e) from e
    rest = read_tensors(file)
    fill(method, own | (new_names(method, rest) if is_old(config["before"]) else rest), str(file))
    return method.eval()


def no_method(said: Path, e: Exception) -> AmodalError:
    if isinstance(e, AmodalError):
        return e
    return AmodalError(f"{said} describes no method that can be built: {type(e).__name__}: {e}")
