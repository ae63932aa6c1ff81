"""A resumed run and the user's own code: the same, or changed and accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amodal import methods
from amodal.core import AmodalError
from amodal.methods.saved import SPEC, describing
from amodal.nn.backbones.module import ModuleBackbone, supplied_as
from amodal.nn.changed_code import changed_code
from amodal.nn.saved import read_json
from amodal.train.run_inputs import Built, Inputs


def earlier_code(out: Path, inputs: Inputs, built: Built) -> list[dict[str, str]]:
    """The code that the run in a folder was trained with before it was resumed with other code.

    Args:
        out: The run folder.

    Returns:
        What and name and sha256 of each, the earliest first.

    Raises:
        AmodalError: If the code differs from that of the run, and this is not accepted.
    """
    file = out / SPEC
    if not inputs.settings.resume or not file.exists():
        return []
    before = read_json(file, "restore it from a copy, or start a new run")
    with describing(file, before):
        changed = changed_code(before, _code_of(inputs, built), inputs.code)
    if changed and not inputs.settings.accept_changed_code:
        raise AmodalError(
            f"the run in {out} cannot continue with changed code: "
            f"{' and '.join(one.described for one in changed)} differs from what it was started "
            "with; restore it, or start a new run, or go on with the new code by "
            "--accept-changed-code (accept_changed_code=True)"
        )
    return [*before.get("earlier_code", []), *(one.stored for one in changed)]


def _code_of(inputs: Inputs, built: Built) -> dict[str, Any]:
    things: dict[str, Any] = {}
    if methods.is_user_code(inputs.method):
        things["method"] = methods.function(inputs.method)
    for field, tokenizer in built.encoder.tokenizers.items():
        if isinstance(tokenizer, ModuleBackbone):
            things[supplied_as(field)] = tokenizer
    return things
