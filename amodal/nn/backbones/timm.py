"""Image models of timm."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, unknown
from amodal.core.hub_client import check_weights
from amodal.nn.backbones.body import (
    ImageBody,
    ImageField,
    LoadReport,
    as_map,
    existing,
    map_tokens,
)

PRETRAINED, SCRATCH, LAYER, CLASS = "pretrained", "scratch", "layer", "class"


def build(rest: str, modality: ImageField, load: bool) -> tuple[ImageBody, str, LoadReport | None]:
    """A model of timm.

    Args:
        rest: NAME[:SIZE][/STRIDE][@WEIGHTS]. STRIDE is of the map whose cells are the tokens, in
            pixels of the input; by default the last. layer3 in its place is the third block, and
            class is the last one with the class token and registers before the patches.
        modality: Of the field.
        load: Load the weights.

    Returns:
        The body, its name in specs, and the report of the weights, if any were loaded.

    Raises:
        AmodalError: If timm is missing, does not know the name, or cannot load the weights.
    """
    try:
        import timm
    except ImportError:
        raise AmodalError(
            "a timm backbone needs the package `timm`: pip install 'amodal[vision]'"
        ) from None
    architecture, _, weights = rest.partition("@")
    sized, _, stride = architecture.partition("/")
    name, _, size = sized.partition(":")
    if not timm.is_model(name):
        raise unknown("model of timm", name, timm.list_models())
    if size and not (size.isdecimal() and int(size)):
        raise AmodalError(
            f"timm:{architecture}: the size after the name must be a number of pixels, got {size!r}"
        )
    model = _create(timm, name, int(size or 0), load and weights == PRETRAINED)
    stage = _stage(model, name, stride) if stride not in ("", CLASS) else None
    if stride == CLASS and not getattr(model, "num_prefix_tokens", 0):
        raise AmodalError(f"timm:{name} has no class token; leave /{CLASS} out")
    report = None
    if load and weights == PRETRAINED:
        report = LoadReport.of(f"timm:{name}, downloaded", model.state_dict(), model.state_dict())
    elif load and weights and weights != SCRATCH:
        report = _load(model, weights)
    spec, scratch = f"timm:{architecture}", weights == SCRATCH
    body = TimmBody(
        model,
        spec,
        int(size or 0),
        modality,
        stage,
        is_scratch=scratch,
        with_class=stride == CLASS,
    )
    return body, f"timm:{rest}", report


def input_size(rest: str) -> int:
    """The side in pixels of a model's input; 0 if timm does not say.

    Args:
        rest: NAME[:SIZE][/STRIDE][@WEIGHTS].

    Raises:
        AmodalError: If timm does not know the name.
    """
    import timm

    name, _, size = rest.partition("@")[0].partition("/")[0].partition(":")
    if size.isdecimal():
        return int(size)
    if not timm.is_model(name):
        raise unknown("model of timm", name, timm.list_models())
    known: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return int(known.input_size[-1]) if known is not None and known.input_size else 0


def _check_download(timm: Any, name: str) -> None:
    """Raise AmodalError where the weights of a name are neither here nor can be fetched."""
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if known is not None and known.hf_hub_id and not known.file:
        instead = f"give their file: timm:{name}@/path/to/weights.safetensors"
        check_weights(known.hf_hub_id, f"timm:{name}", instead)


def _create(timm: Any, name: str, size: int, pretrained: bool) -> nn.Module:
    if pretrained:
        _check_download(timm, name)
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    sized = options | ({"img_size": size} if size else {})
    model: nn.Module
    try:
        try:
            # models with a table of positions need the size; the others take any, and refuse the
            # argument
            model = timm.create_model(name, **sized)
        except TypeError:
            model = timm.create_model(name, **options)
        return model
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


def _stage(model: Any, name: str, stride: str) -> tuple[int, int]:
    """The map of a stride: its number and its channels.

    Raises:
        AmodalError: For a model without maps, and a stride that none of its maps has.
    """
    maps = getattr(model, "feature_info", None) or []
    strides = {str(each["reduction"]): i for i, each in enumerate(maps)}
    if not hasattr(model, "forward_intermediates") or not strides:
        raise AmodalError(
            f"timm:{name} has no maps to choose from; leave /{stride} out, for its last features"
        )
    if stride.removeprefix(LAYER).isdecimal() and stride.startswith(LAYER):
        number = int(stride.removeprefix(LAYER)) - 1
        if not 0 <= number < len(maps):
            raise AmodalError(f"timm:{name} has layers 1 to {len(maps)}, not {number + 1}")
        return number, maps[number]["num_chs"]
    if stride not in strides:
        raise unknown(f"stride of a map of {name}", stride, strides, "Expected NAME/STRIDE.")
    return strides[stride], maps[strides[stride]]["num_chs"]


class TimmBody(ImageBody):
    """An image model of timm.

    Args:
        model: The model.
        spec: Names it.
        size: Side of its input; 0 for the model's own.
        modality: Of the field.
        stage: Number and channels of the map whose cells are the tokens; None for the last.
        is_scratch: See `Body`.
        with_class: Give the class token and registers before the patches.
    """

    def __init__(
        self,
        model: Any,
        spec: str,
        size: int,
        modality: ImageField,
        stage: tuple[int, int] | None = None,
        *,
        is_scratch: bool = False,
        with_class: bool = False,
    ):
        has = model.pretrained_cfg
        size = size or has.get("input_size", (3, 224, 224))[-1]
        width = stage[1] if stage else model.num_features
        super().__init__(modality, width=width, side=size, mean=has["mean"], std=has["std"])
        self.model, self.spec, self.stage = model, spec, stage
        self.is_scratch = is_scratch
        self.prefix_tokens = int(model.num_prefix_tokens) if with_class else 0
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        self.rows = grid[0] if grid else None
        with torch.no_grad():
            self.eval()(self.example())  # a model whose features are no map is found out now

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `ImageBody.forward`."""
        if not self.prefix_tokens:
            return super().forward(images_NCHW)
        features_NLC: Tensor = self.model.forward_features(self.scaled(images_NCHW))
        map_ = as_map(features_NLC, self.width, rows=self.rows, spec=self.spec)
        patches, lengths, position = map_tokens(map_, self.grid)
        n, before = len(features_NLC), self.prefix_tokens
        both = [features_NLC[:, :before], patches.view(n, -1, self.width)]
        places = position.view(n, -1, position.shape[1])
        places = torch.cat([places.new_zeros(n, before, places.shape[2]), places], 1)
        return torch.cat(both, 1).flatten(0, 1), lengths + before, places.flatten(0, 1)

    def maps(self, images: Tensor) -> Tensor:
        """See `ImageBody.maps`."""
        if self.stage is not None:
            stages = [self.stage[0]]
            (map_,) = self.model.forward_intermediates(
                images, indices=stages, intermediates_only=True, stop_early=True
            )
            return as_map(map_, self.width, spec=self.spec)
        features: Tensor = self.model.forward_features(images)
        return as_map(features, self.width, rows=self.rows, spec=self.spec)

    def hidden_states(self, values: Tensor) -> list[Tensor]:
        """See `Layered.hidden_states`."""
        if not hasattr(self.model, "forward_intermediates"):
            raise AmodalError(f"{self.spec} does not say what its layers give")
        maps = self.model.forward_intermediates(self.scaled(values), intermediates_only=True)
        return [m.flatten(2).mean(2) for m in maps]
