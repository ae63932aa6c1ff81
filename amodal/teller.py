"""A method that was kept whole, for what it tells of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from amodal import methods
from amodal.core import AmodalError, Column
from amodal.data import Dataset
from amodal.evaluate._again import in_order
from amodal.methods._contract import Method
from amodal.nn import config as encoder_config
from amodal.nn.answers import Target, predictions
from amodal.nn.encoder import Encoder
from amodal.nn.saved import fill


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
            parts.append(self.method.outputs(part.to(device)).to("cpu"))
            sizes.append(part.size)
            if progress is not None:
                progress(part.size)
        return Column.stack(parts, sizes)

    def predictions(self, told: Column) -> dict[str, Tensor]:
        """See `amodal.nn.answers.predictions`."""
        return predictions(self.targets, told)


def teller(folder: str | Path, encoder: Encoder, config: dict, device: torch.device) -> Teller | None:
    """The method of a run that tells labels by more than a head on its encoder's features; None for other runs. encoder: the run's, whose
    weights it takes. Raises AmodalError if what was kept of it is damaged."""
    if "tells" not in config:
        return None
    options = {n: tuple(v) if isinstance(v, list) else v for n, v in config["options"].items()}
    method = methods.build(config["method"], encoder_config.build(config["before"]), **options)
    file = Path(folder) / "method.safetensors"
    own = {f"encoder.{n}": v for n, v in encoder.state_dict().items()}
    try:
        fill(method, own | load_file(file), str(file))
    except (OSError, SafetensorError) as e:
        raise AmodalError(f"{file} cannot be read: {e}") from e
    return Teller(method.to(device).eval(), tuple(Target.read(t) for t in config["tells"]))
