"""Short clips out of long recordings: around events, or everywhere.

The unit of Gupta et al., ML4H 2024, arXiv:2411.10919 (row 63 of the catalogue): a remark and what
was to be seen around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.core import AmodalError


def around(
    recording: np.ndarray,
    times: Sequence[float],
    *,
    rate: float,
    before: float,
    after: float,
    pad: bool = False,
) -> list[np.ndarray | None]:
    """Cut a clip around each time.

    A clip has round((before + after) rate) steps, the first at round((time - before) rate). One
    that reaches beyond an end of the recording is moved inside.

    Args:
        recording: (steps, ...).
        times: of the events, in seconds.
        rate: steps a second.
        before: seconds of a clip before its event.
        after: seconds of a clip after its event.
        pad: return the whole recording where it is shorter than a clip.

    Returns:
        A clip for each time, None where the recording is too short.

    Raises:
        AmodalError: a time is outside the recording, or clips have no steps.
    """
    length, last = round((before + after) * rate), len(recording)
    if length < 1 or rate <= 0:
        raise AmodalError(
            f"a clip of {before} s before and {after} s after, at {rate} steps a second, "
            "has no steps"
        )
    clips: list[np.ndarray | None] = []
    for time in times:
        if not 0 <= time * rate <= last:
            raise AmodalError(f"an event at {time} s is outside a recording of {last / rate:g} s")
        first = min(max(round((time - before) * rate), 0), max(last - length, 0))
        clip = recording[first : first + length]
        clips.append(clip if len(clip) == length or (pad and len(clip)) else None)
    return clips


def everywhere(
    recording: np.ndarray, *, rate: float, length: float, step: float = 0.0
) -> list[np.ndarray]:
    """Cut a recording into clips. What is left over at the end is dropped.

    Args:
        recording: (steps, ...).
        rate: steps a second.
        length: of a clip, in seconds.
        step: seconds from the start of one clip to that of the next, 0 for `length`.

    Raises:
        AmodalError: clips have no steps.
    """
    size, stride = round(length * rate), round((step or length) * rate)
    if size < 1 or stride < 1:
        raise AmodalError(
            f"clips of {length} s every {step or length} s, at {rate} steps a second, have no steps"
        )
    return [recording[i : i + size] for i in range(0, len(recording) - size + 1, stride)]
