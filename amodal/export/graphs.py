"""ONNX: one graph for each field, from dense inputs to vectors (N, D) in the space where fields are
compared.

    OUT/FIELD.onnx    the graph; the batch is dynamic, and so is the length of what has one
    OUT/fields.json   for each field: file, inputs (name, shape, type, what to feed), how the field
                      is decoded, largest error

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

import numpy as np
import torch

import amodal
from amodal import modalities
from amodal.core import AmodalError, Batch, Column
from amodal.export._alone import Alone, reason_against
from amodal.modalities.shared.base import Exports
from amodal.modalities.shared.dense import dense
from amodal.nn.encoder import Encoder

TOLERANCE = 1e-4  # largest difference from the encoder, in units of its largest component
INLINE = (
    1 << 30
)  # bytes of weights above which they go to a file beside the graph: ONNX files end at 2 GiB


def write(model, out: Path) -> list[Path]:
    """The graphs of all fields of `model`. Raises AmodalError if one cannot be made, and then says
    which can."""
    runtime = _packages()
    encoder = copy.deepcopy(model.encoder).cpu().float().eval()
    reasons = {
        field: reason for field in encoder.fields if (reason := reason_against(encoder, field))
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
        alone = Alone(encoder, field).eval()
        file = out / f"{field}.onnx"
        trace(alone, file, _inputs(encoder, field, alone, n=3, length=29, seed=0)[0])
        error = disagreement(encoder, field, alone, file, runtime)
        if not error <= TOLERANCE:
            file.unlink()
            raise AmodalError(
                f"the ONNX graph of {field!r} differs from the encoder by {error:.2g}, more than "
                f"{TOLERANCE:g}; it was not kept. "
                "Please report this with the versions that `amodal doctor` prints."
            )
        written += [file, *out.glob(f"{file.name}.data")]
        fields[field] = {
            "file": file.name,
            "inputs": alone.field.inputs,
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
    card.write_text(json.dumps(about, indent=1) + "\n")
    return [*written, card]


def trace(alone: Alone, file: Path, inputs: tuple[torch.Tensor, ...]) -> None:
    """Write the graph that `alone` makes of inputs of any number and length."""
    axes = alone.field.axes
    big = sum(p.numel() * p.element_size() for p in alone.parameters()) > INLINE
    shapes = tuple(dict.fromkeys(each, torch.export.Dim.DYNAMIC) for each in axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        # strict: Python's own len() of a tensor stays a dynamic size
        program = torch.export.export(alone, inputs, dynamic_shapes=(shapes,), strict=True)
        names = {"input_names": list(alone.field.inputs), "output_names": ["vectors"]}
        graph = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)
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


def disagreement(encoder: Encoder, field: str, alone: Alone, file: Path, runtime) -> float:
    """The largest difference between the graph and the encoder, over values that the graph was not
    traced with."""
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for n, length in ((1, 1), (5, 47)):
        inputs, column = _inputs(encoder, field, alone, n=n, length=length, seed=n)
        with torch.no_grad():
            wanted = encoder(Batch.of(n, {field: column}))[field].values.numpy()
        fed = {name: value.numpy() for name, value in zip(alone.field.inputs, inputs)}
        (found,) = session.run(None, fed)
        difference = (
            float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))
            if found.shape == wanted.shape
            else np.inf
        )
        worst = max(worst, np.inf if np.isnan(difference) else difference)
    return worst


def _inputs(encoder: Encoder, field: str, alone: Alone, *, n: int, length: int, seed: int):
    """Made-up values of a field as the graph takes them, and as the encoder does."""
    examples = alone.field.examples(n, length, np.random.default_rng(seed))
    column = Column(encoder.fields[field].collate(examples), torch.arange(n))
    return dense(column.values), column


def _width(encoder: Encoder) -> int:
    return encoder.space_width


def _packages():
    """onnxruntime, if all that an export needs is there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise AmodalError(
            f"exporting to ONNX needs the package {e.name!r}: pip install 'amodal[onnx]'"
        ) from None
    return onnxruntime
