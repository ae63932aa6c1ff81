"""Arrays of numpy and tensors of torch as plain arrays of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from amodal.core import AmodalError


def is_sparse(values: Any) -> bool:
    """Whether it is a sparse matrix of scipy, which is not imported for that."""
    return hasattr(values, "toarray") and hasattr(values, "nnz")


def is_array(value: Any) -> bool:
    """Whether a value is an array of numpy or a tensor of torch, which is not imported for that."""
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def as_numpy(value: Any, name: str = "") -> np.ndarray:
    """A tensor, or an array of whatever kind, as an array in which a missing number is NaN.

    Args:
        value: a tensor (sparse, bfloat16, on any device) or an array (a masked one has its masked
            numbers as NaN, other masked values as None).
        name: of the column, for messages.

    Raises:
        AmodalError: it has no values (a meta tensor), or complex ones.
    """
    column = f"column {name!r}" if name else "a value"
    array = _of_tensor(value, column) if hasattr(value, "detach") else value
    if array.dtype.kind == "c":
        raise AmodalError(
            f"{column} is complex, and no modality reads complex numbers; give the magnitude, or "
            "real and imaginary part as two channels: np.stack([x.real, x.imag], -1)"
        )
    if isinstance(array, np.ma.MaskedArray):
        if not np.ma.is_masked(array):
            return np.asarray(array.data)
        number = array.dtype.kind in "iufb"
        exact = array.dtype if array.dtype.kind == "f" else np.float64 if number else object
        values = np.asarray(array.data).astype(exact)
        values[np.ma.getmaskarray(array)] = np.nan if number else None
        return values
    return np.asarray(array)


def _of_tensor(tensor: Any, column: str) -> np.ndarray:
    if tensor.device.type == "meta":
        raise AmodalError(f"{column} is a tensor on the device 'meta', which has no values")
    if tensor.is_nested:
        raise AmodalError(f"{column} is a nested tensor; give the list of its parts: x.unbind()")
    tensor = tensor.detach().to_dense().cpu()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    try:
        return np.asarray(tensor.resolve_conj().resolve_neg().numpy())
    except TypeError:  # bfloat16 and the types of eight bits, which numpy lacks
        return np.asarray(tensor.float().numpy())
