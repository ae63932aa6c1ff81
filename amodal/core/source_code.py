"""Hashes of a user's own code, by which a run knows whether it has changed.

The hash of a function or class is over its own definition and over what that uses of its module
(see `amodal.core.source_texts`), and over the values that it was made with (see
`amodal.core.code_values`): those that a function captures, that a partial binds, and that an object
or a layer has as attributes. Code that it imports from other files is not part of it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from torch import nn

from amodal.core.code_values import described, file_of, is_of_user, values_of_layer
from amodal.core.references import definition_of
from amodal.core.source_texts import texts, texts_of_before


def source_hash(code: object) -> str:
    """The sha256 of the source of a function, class, partial, object or torch module, and of what
    it was made with.

    Of a torch module it is the kinds of all modules in it with their arguments, and the source and
    the attributes of those that no installed package brings; not the weights.

    Returns:
        Hexadecimal digits; "" without a source, as for code typed at a prompt.
    """
    if isinstance(code, nn.Module):
        return _sha256(_module_texts(code))
    lines = texts(definition_of(code))
    return _sha256([*lines, described(code)]) if lines else ""


def has_changed(stored: str, code: object, current: str = "") -> bool:
    """Whether code is another one than that of which a run has stored the hash.

    Args:
        stored: Of `source_hash`; or of the source alone or of the plain text of the definition, as
            runs of before have it, in which the values that it was made with do not count. "" for
            code without a source, of which nothing is known.
        code: What is passed now.
        current: Its hash, if that is known.
    """
    known = (current or source_hash(code), _hash_of_source(code), _plain_hash(code))
    return bool(stored) and stored not in known


def files_of(code: object) -> list[str]:
    """The files of a function, of the class of an object, or of a user's classes in a module."""
    if isinstance(code, nn.Module):
        definitions: list[Any] = [c for c in _classes(code) if is_of_user(c)]
    else:
        definitions = [definition_of(code)]
    return [*dict.fromkeys(filter(None, map(file_of, definitions)))]


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _hash_of_source(code: object) -> str:
    """The hash that runs of before have."""
    if isinstance(code, nn.Module):
        own = filter(is_of_user, _classes(code))
        of_classes = {text for definition in own for text in texts_of_before(definition)}
        return _sha256([*_kinds(code), *sorted(of_classes)])
    lines = [*texts_of_before(definition_of(code))]
    if not lines:
        return ""
    while isinstance(code, partial):
        bound = json.dumps([code.args, code.keywords], default=lambda v: type(v).__qualname__)
        lines.append(bound)
        code = code.func
    return _sha256(lines)


def _plain_hash(code: object) -> str:
    try:
        return hashlib.sha256(inspect.getsource(definition_of(code)).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def _module_texts(module: nn.Module) -> Iterator[str]:
    """The kinds of modules in a module and what they were made with, and the source of its user's
    classes."""
    for kind, inner in zip(_kinds(module), module.modules(), strict=True):
        yield f"{kind}({values_of_layer(inner)})"
    own = [definition for definition in _classes(module) if is_of_user(definition)]
    yield from sorted({"\n".join(texts(definition)) for definition in own})


def _kinds(module: nn.Module) -> Iterator[str]:
    for name, inner in module.named_modules():
        kind = type(inner).__qualname__
        yield f"{name}: {'BatchNorm' if 'BatchNorm' in kind else kind}"  # ours replaces torch's


def _classes(module: nn.Module) -> dict[type, None]:
    """The classes of a module and of those in it, each once, in order."""
    return dict.fromkeys(map(type, module.modules()))
