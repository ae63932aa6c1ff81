"""What the raw values of a field look like, in a few words for the report of `init`: sizes, rates, scripts,
channels."""

from __future__ import annotations

import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from amodal.modalities import Modality, Raw


def looks(modality: Modality, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
    """raws: some raw values; values: those of them that decode."""
    kind = type(modality).__name__.lower()
    own = {"image": _image, "audio": _audio, "text": _text}.get(kind)
    if own is not None:
        return own(raws, modality)
    if kind == "series":
        names = ", ".join(modality.channels[:4]) + (", …" if len(modality.channels) > 4 else "")
        return f"{_range((len(v) for v in values), 'steps')} of {names}"
    if kind == "events":
        names = ", ".join(modality.columns[:4]) + (", …" if len(modality.columns) > 4 else "")
        return f"{_range((len(v) for v in values), 'events')} of {names}"
    if kind == "sequence":
        letters = modality.alphabet if len(modality.alphabet) <= 24 else modality.alphabet[:23] + "…"
        words = f", words of {modality.k}" if modality.k > 1 else ""
        return f"{_range((len(v) for v in values), 'symbols')} of {letters}{words}"
    if kind == "table":
        cells = ", ".join(modality.columns[:4]) + (", …" if len(modality.columns) > 4 else "")
        return f"{len(modality.columns)} cells: {cells}"
    return _range((len(v) for v in values), "long")


def _image(raws: Sequence[Raw], modality) -> str:
    from PIL import Image

    sizes, modes = [], Counter()
    for raw in raws:
        try:
            with Image.open(_stream(raw)) as picture:
                sizes.append(picture.size)
                modes[picture.mode] += 1
        except Exception:  # not a file of a picture, or a damaged one
            if isinstance(raw, np.ndarray) and raw.ndim > 1:
                sizes.append(raw.shape[-2:] if raw.shape[-1] not in (1, 3, 4) else raw.shape[-3:-1])
                modes[str(raw.dtype)] += 1
    if not sizes:
        return ""
    small, large = min(sizes, key=np.prod), max(sizes, key=np.prod)
    span = f"{small[0]} x {small[1]}" + (f" … {large[0]} x {large[1]}" if large != small else "")
    return f"{span}, {'/'.join(m for m, _ in modes.most_common(3))}, read at {modality.size} x {modality.size}"


def _audio(raws: Sequence[Raw], modality) -> str:
    import soundfile

    rates, seconds = Counter(), []
    for raw in raws:
        try:
            about = soundfile.info(_stream(raw))
        except Exception:  # not a file of sound, or a damaged one
            continue
        rates[about.samplerate] += 1
        seconds.append(about.duration)
    heard = "/".join(f"{rate:,}" for rate, _ in rates.most_common(3))
    return f"{_range(seconds, 's', '.1f')} at {heard} Hz, read at {modality.rate:,} Hz" if seconds else ""


def _text(raws: Sequence[Raw], modality) -> str:
    texts = [t for raw in raws if (t := _read(raw))]
    scripts: Counter[str] = Counter()
    for text in texts:
        scripts.update({_script(c) for c in text if c.isalpha()})
    common = [name for name, n in scripts.most_common(4) if n >= 0.01 * len(texts)]
    return f"{_range(map(len, texts), 'characters')}, {', '.join(common) or 'no letters'}" if texts else ""


def _script(character: str) -> str:
    """Latin, Cyrillic, Cjk, …: the first word of the character's name in Unicode."""
    return unicodedata.name(character, "?").partition(" ")[0].capitalize()


def _read(raw: Raw) -> str:
    try:
        data = raw.read_bytes() if isinstance(raw, Path) else raw
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
    except OSError:
        return ""


def _stream(raw: Raw):
    return io.BytesIO(raw) if isinstance(raw, bytes) else str(raw)


def _range(numbers: Iterable[float], unit: str, form: str = ",") -> str:
    numbers = list(numbers)
    if not numbers:
        return ""
    low, high = format(min(numbers), form), format(max(numbers), form)
    return f"{low} {unit}" if low == high else f"{low} … {high} {unit}"
