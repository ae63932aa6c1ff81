"""Export of a trained model: a folder that `amodal.load` reads, a folder for the Hugging Face Hub,
or an ONNX graph for each field."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from amodal.core import AmodalError, unknown
from amodal.train.overwriting import check_graphs, check_tower

if TYPE_CHECKING:
    from amodal.model import Model

__all__ = ["FORMS", "export"]


def export(model: Model, to: str, out: str | Path, *, packaged: bool = True) -> list[Path]:
    """Write a model for use elsewhere.

    Args:
        model: The model.
        to: "safetensors", a folder that `amodal.load` reads, with identical vectors;
            "huggingface", the same with a model card and the towers that transformers loads, see
            `amodal.export.hub`; "onnx", `FIELD.onnx` for each field and `fields.json`, which says
            what to feed them, see `amodal.export.graphs`.
        out: The folder.
        packaged: With the weights of frozen `package:` backbones; without, they are fetched when
            the folder is opened.

    Returns:
        The files.

    Raises:
        AmodalError: For another form, a field that cannot be a graph, a graph that does not agree
            with the encoder, or one without weights.
    """
    if to not in FORMS:
        raise unknown("form to export to", to, FORMS)
    if to == "onnx" and not packaged:
        raise AmodalError(
            "a graph holds all of its weights; leave weights of packages out of safetensors or "
            "huggingface"
        )
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        return to_onnx(model, out) if to == "onnx" else FOLDERS[to](model, out, packaged)
    except OSError as e:
        raise AmodalError(f"could not write the export to {out}: {e}") from e


def to_safetensors(model: Model, out: Path, packaged: bool = True) -> list[Path]:
    """spec.json, model.safetensors, config.json (with the weights' sha256), README.md."""
    model.save(out, packaged=packaged)
    written = load_file(out / "model.safetensors")
    saved = model.encoder if model.method is None else model.method
    for name, value in saved.state_dict().items():
        if name not in written and not packaged:
            continue  # `save` has said that only packages lack
        if name not in written or not torch.equal(written[name], value.cpu()):
            raise AmodalError(
                f"{out / 'model.safetensors'} does not hold {name!r} as the model has it. Is the "
                "disk in order?"
            )
    return [out / name for name in ("model.safetensors", "spec.json", "config.json", "README.md")]


def to_onnx(model: Model, out: Path) -> list[Path]:
    """See `amodal.export.graphs`."""
    from amodal.export.graphs import write

    check_graphs(out, model.encoder.fields)
    return write(model, out)


def to_huggingface(model: Model, out: Path, packaged: bool = True) -> list[Path]:
    """See `amodal.export.hub`."""
    from amodal.export.hub import towers_of, write

    for field in towers_of(model.encoder):
        check_tower(out / field)
    plain = to_safetensors(model, out, packaged)
    return [*(file for file in plain if file.name != "README.md"), *write(model, out)]


FOLDERS = {"safetensors": to_safetensors, "huggingface": to_huggingface}
FORMS = (*FOLDERS, "onnx")
