"""Tokenizers of pretrained text models beside the weights, so that a run is whole without them.

A field of text names its tokenizer by a path. RUN/tokenizer-FIELD.json is a copy, which is read
where that path is not there, as on another machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amodal.core.part import Spec
from amodal.core.regular_file import regular


def tokenizer_files(spec: Spec) -> dict[str, dict[str, Any]]:
    """The copies that belong beside a spec.

    Args:
        spec: Of a run.

    Returns:
        tokenizer-FIELD.json -> content, for fields whose tokenizer can be read.
    """
    found = {}
    for field, vocabulary in _vocabularies(spec):
        content = _content(Path(vocabulary))
        if content is not None:
            found[_file(field)] = content
    return found


def with_saved_tokenizers(spec: Spec, folder: Path) -> Spec:
    """A spec whose fields read the copies in a folder where the tokenizers they name are not there.

    Args:
        spec: Of the run.
        folder: Of the run.
    """
    moved = {}
    for field, vocabulary in _vocabularies(spec):
        copy = folder / _file(field)
        if copy.is_file() and _content(Path(vocabulary)) is None:
            moved[vocabulary] = str(copy.resolve())
    return _replaced(spec, moved) if moved else spec


def _file(field: str) -> str:
    return f"tokenizer-{field}.json"


def _content(path: Path) -> dict[str, Any] | None:
    """What a tokenizer.json says, None where it is none."""
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        content = json.loads(regular(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what builds the field says what is wrong
        return None
    return content if isinstance(content, dict) else None


def _vocabularies(value: object) -> Iterator[tuple[str, str]]:
    """(field, path of its tokenizer) of each field in a spec that has one."""
    if isinstance(value, Mapping):
        fields = value.get("fields")
        for name, field in fields.items() if isinstance(fields, Mapping) else ():
            vocabulary = field.get("vocabulary") if isinstance(field, Mapping) else None
            if isinstance(vocabulary, str) and vocabulary:
                yield str(name), vocabulary
        for one in value.values():
            yield from _vocabularies(one)
    elif isinstance(value, list):
        for one in value:
            yield from _vocabularies(one)


def _replaced(value: Any, moved: Mapping[str, str]) -> Any:
    """The value with every `vocabulary` in it that has moved."""
    if isinstance(value, list):
        return [_replaced(one, moved) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {
        name: moved.get(one, one)
        if name == "vocabulary" and isinstance(one, str)
        else _replaced(one, moved)
        for name, one in value.items()
    }
