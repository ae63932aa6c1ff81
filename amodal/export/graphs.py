"""ONNX: one graph for each field, from dense inputs to vectors (N, D) in the space where fields are
compared.

    OUT/FIELD.onnx    the graph; the batch is dynamic, and so is the length of what has one
    OUT/fields.json   for each field: file, inputs (name, shape, type, what to feed), how the field
                      is decoded, largest error
    OUT/tokenizer-FIELD.json    text -> ids, of a field that learnt its tokens

Standardisation, the spectrogram of sound and the cutting into tokens are inside the graph. Every
graph is run in onnxruntime on made-up values of other numbers and lengths than it was traced with,
and compared with the encoder, before it is handed out. A joint trunk gives each field's vector
alone, as `Model.embed` does; what it makes of all fields together is not exported.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import amodal
from amodal import modalities
from amodal.core import AmodalError, Batch, Column
from amodal.export.dense_encoder import DenseEncoder, why_not_exportable
from amodal.modalities.shared.dense import dense
from amodal.modalities.shared.protocols import Exports
from amodal.nn.encoder import Encoder
from amodal.train.run_tokens import write_tokenizers

if TYPE_CHECKING:
    from amodal.model import Model

TOLERANCE = 1e-4  # largest difference from the encoder, in units of its largest component
INLINE = 1 << 30
"""Bytes of weights above which they go to a file beside the graph: ONNX files end at 2 GiB."""


def write(model: Model, out: Path) -> list[Path]:
    """Write the graphs of all fields of a model, and fields.json.

    Args:
        model: The model.
        out: The folder.

    Returns:
        The files.

    Raises:
        AmodalError: If a field cannot be a graph, with those that can.
    """
    _require_packages()
    encoder = copy.deepcopy(model.encoder).cpu().float().eval()
    reasons = {
        field: reason for field in encoder.fields if (reason := why_not_exportable(encoder, field))
    }
    if reasons:
        kinds = [name for name, kind in modalities.every().items() if issubclass(kind, Exports)]
        could = [field for field in encoder.fields if field not in reasons]
        raise AmodalError(
            "; ".join(
                f"the field {field!r} cannot become an ONNX graph: {reason}"
                for field, reason in reasons.items()
            )
            + f". Fields of this encoder that can: {', '.join(could) or 'none'}; kinds of data "
            f"that can: {', '.join(kinds)}. "
            "The form safetensors takes every encoder."
        )
    written, fields = [], {}
    for field, modality in encoder.fields.items():
        dense_encoder = DenseEncoder(encoder, field).eval()
        file = out / f"{field}.onnx"
        trace(
            dense_encoder, file, _inputs(encoder, field, dense_encoder, n=3, length=29, seed=0)[0]
        )
        error = disagreement(encoder, field, dense_encoder, file)
        if not error <= TOLERANCE:
            file.unlink()
            raise AmodalError(
                f"the ONNX graph of {field!r} differs from the encoder by {error:.2g}, more than "
                f"{TOLERANCE:g}; it was removed. Please report this with the versions that `amodal "
                "doctor` prints."
            )
        written += [file, *out.glob(f"{file.name}.data")]
        fields[field] = {
            "file": file.name,
            "inputs": dense_encoder.field.inputs,
            "output": {
                "vectors": f"(N, {_width(encoder)}) float32, not normalised: compare by cosine"
            },
            "field": modalities.config(modality),
            "largest_error": float(f"{error:.2g}"),
        }
    about = {
        "amodal": amodal.__version__,
        "weights_sha256": model.config.get("weights_sha256", ""),
        "fields": fields,
    }
    card = out / "fields.json"
    card.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return [*written, card, *write_tokenizers(out, encoder.fields)]


def trace(dense_encoder: DenseEncoder, file: Path, inputs: tuple[torch.Tensor, ...]) -> None:
    """Write the graph of the encoder for inputs of any number and length."""
    axes = dense_encoder.field.axes
    big = sum(p.numel() * p.element_size() for p in dense_encoder.parameters()) > INLINE
    shapes = tuple(dict.fromkeys(each, torch.export.Dim.DYNAMIC) for each in axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        # strict: Python's own len() of a tensor stays a dynamic size
        program = torch.export.export(dense_encoder, inputs, dynamic_shapes=(shapes,), strict=True)
        graph: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            input_names=list(dense_encoder.field.inputs),
            output_names=["vectors"],
        )
        if hasattr(graph, "rename_axes"):  # torch before 2.9 leaves the names s0, s1
            fed = graph.model.graph.inputs
            graph.rename_axes(
                {
                    fed[i].shape[axis]: name
                    for i, each in enumerate(axes)
                    for axis, name in each.items()
                }
            )
        for node in graph.model.graph.all_nodes():
            node.metadata_props.clear()  # lines of source code and paths of this machine
        graph.save(str(file), external_data=big)


def disagreement(encoder: Encoder, field: str, dense_encoder: DenseEncoder, file: Path) -> float:
    """The largest difference between the graph and the encoder, over values that the graph was not
    traced with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for n, length in ((1, 1), (5, 47)):
        inputs, column = _inputs(encoder, field, dense_encoder, n=n, length=length, seed=n)
        with torch.no_grad():
            wanted = encoder(Batch.of(n, {field: column}))[field].flat.numpy()
        fed = {name: value.numpy() for name, value in zip(dense_encoder.field.inputs, inputs)}
        (output,) = session.run(None, fed)
        difference = (
            float(np.abs(output - wanted).max() / max(1.0, np.abs(wanted).max()))
            if output.shape == wanted.shape
            else np.inf
        )
        worst = max(worst, np.inf if np.isnan(difference) else difference)
    return worst


def _inputs(
    encoder: Encoder, field: str, dense_encoder: DenseEncoder, *, n: int, length: int, seed: int
) -> tuple[tuple[torch.Tensor, ...], Column]:
    """Made-up values of a field, as the graph takes them and as the encoder does."""
    examples = dense_encoder.field.examples(n, length, np.random.default_rng(seed))
    column = Column(encoder.fields[field].collate(examples), torch.arange(n))
    return dense(column.values), column


def _width(encoder: Encoder) -> int:
    return encoder.space_width


def _require_packages() -> None:
    """Raises AmodalError that says what to install."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise AmodalError(
            f"exporting to ONNX needs the package {e.name!r}: pip install 'amodal[onnx]'"
        ) from None
