"""Counter-based random numbers: no generator, no state, the same on every device.

The finaliser is splitmix64 (Steele, Lea, Flood, OOPSLA 2014; constants of Stafford's variant 13),
on int64 with wraparound.
"""

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _mix(x: Tensor) -> Tensor:
    # int64 shifts carry the sign down; the masks make them the unsigned shifts that the finaliser
    # means.
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _FIRST
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def hash_bits(seed_T: Tensor, *counters: Tensor | int) -> Tensor:
    """64 well mixed bits for each seed and counters, which broadcast against each other.

    For a fixed seed and other counters the map from the last counter is one to one: no ties.

    Args:
        seed_T: Integers.
        counters: Integers.

    Returns:
        int64, of any sign.

    Raises:
        TypeError: For other types.
    """
    for value in (seed_T, *counters):
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            raise TypeError(f"seeds and counters must be integers, got {value.dtype}.")
    bits = _mix(seed_T.long() + _GOLDEN)
    for counter in counters:
        counter = counter.long() if isinstance(counter, Tensor) else _signed(counter % (1 << 64))
        bits = _mix(bits + (torch.as_tensor(counter, device=bits.device) + 1) * _GOLDEN)
    return bits


def uniform(seed_T: Tensor, *counters: Tensor | int) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24, one for each seed and counters.

    Args:
        seed_T: int64, such as a row's seed repeated for each of its tokens.
        counters: int64 tensors or ints, such as a token's index, the number of the draw, an epoch;
            they broadcast.

    Returns:
        float32.
    """
    # 24 bits, as many as a float32 holds exactly, so that 1 cannot come out by rounding
    return ((hash_bits(seed_T, *counters) >> 40) & 0xFFFFFF).float() * 2.0**-24


def normal(seed_T: Tensor, *counters: Tensor | int) -> Tensor:
    """Standard normal numbers (Box and Muller, 1958), of at most 5.8 in size.

    Args:
        seed_T, counters: As in `uniform`.

    Returns:
        float32.
    """
    radius, angle = uniform(seed_T, *counters, 0), uniform(seed_T, *counters, 1)
    return (-2 * torch.log1p(-radius)).sqrt() * (2 * math.pi * angle).cos()
