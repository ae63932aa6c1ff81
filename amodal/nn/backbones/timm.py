"""Image models of timm."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, unknown
from amodal.nn.backbones.body import ImageBody, LoadReport, as_map, existing

PRETRAINED = "pretrained"


def build(rest: str, modality, load: bool) -> tuple[ImageBody, str, LoadReport | None]:
    """rest: NAME[:SIZE][@WEIGHTS]."""
    try:
        import timm
    except ImportError:
        raise AmodalError(
            "a timm backbone needs the package `timm`: pip install 'amodal[vision]'"
        ) from None
    architecture, _, weights = rest.partition("@")
    name, _, size = architecture.partition(":")
    if not timm.is_model(name):
        raise unknown("model of timm", name, timm.list_models())
    if size and not (size.isdecimal() and int(size)):
        raise AmodalError(
            f"timm:{architecture}: the size after the name must be a number of pixels, got {size!r}"
        )
    model = _create(timm, name, int(size or 0), load and weights == PRETRAINED)
    report = None
    if load and weights == PRETRAINED:
        report = LoadReport.of(f"timm:{name}, downloaded", model.state_dict(), model.state_dict())
    elif load and weights:
        report = _load(model, weights)
    return TimmBody(model, f"timm:{architecture}", int(size or 0), modality), f"timm:{rest}", report


def _create(timm, name: str, size: int, pretrained: bool) -> nn.Module:
    options = {"pretrained": pretrained, "num_classes": 0}
    try:
        try:
            # Models with a table of positions must be told the size; the others take any and do not
            # know the word.
            return timm.create_model(name, **options, **({"img_size": size} if size else {}))
        except TypeError:
            return timm.create_model(name, **options)
    # no network, no such weights, a size that patches do not tile: many libraries, many errors
    except Exception as error:
        raise AmodalError(f"timm could not make {name}: {type(error).__name__}: {error}") from error


def _load(model: nn.Module, weights: str) -> LoadReport:
    from timm.models import load_state_dict

    path = existing(weights, "weights file")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # whatever unpickling, safetensors or the file system say
        raise AmodalError(f"cannot read the weights {path}: {error}") from error
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:  # timm's own: old names, and positions resampled to another size
        try:
            state = adapt(state, model)
        except Exception:  # not a file of this model: let the report say so
            pass
    state = {n: t for n, t in state.items() if isinstance(t, Tensor)}
    report = LoadReport.of(str(path), model.state_dict(), state)
    model.load_state_dict({n: state[n] for n in report.matched}, strict=False)
    return report


class TimmBody(ImageBody):
    def __init__(self, model: nn.Module, spec: str, size: int, modality):
        has = model.pretrained_cfg
        size = size or has.get("input_size", (3, 224, 224))[-1]
        super().__init__(
            modality, width=model.num_features, side=size, mean=has["mean"], std=has["std"]
        )
        self.model, self.spec = model, spec
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        self.rows = grid[0] if grid else None
        with torch.no_grad():
            self.eval()(self.example())  # a model whose features are no map is found out now

    def maps(self, images: Tensor) -> Tensor:
        features = self.model.forward_features(images)
        return as_map(features, self.width, rows=self.rows, spec=self.spec)
