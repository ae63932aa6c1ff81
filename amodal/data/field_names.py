"""Names of fields, from the names of columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

RESERVED = frozenset(
    """fused T_destination add_module apply bfloat16 buffers call_super_init children clear compile
    copy cpu cuda double dump_patches eval extra_repr float forward fromkeys get get_buffer
    get_extra_state get_parameter get_submodule half ipu items keys load_state_dict modules
    mtia named_buffers named_children named_modules named_parameters parameters pop popitem
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook
    requires_grad_ set_extra_state set_submodule setdefault share_memory smart_apply
    state_dict to to_empty train training type update values xpu zero_grad""".split()
)
"""Names that no field can have: the encoder holds a module for each field under its name, and these
are attributes of torch's modules (one by transformers). Names that begin with _ are reserved too.
"""


def field_names(columns: Sequence[str]) -> dict[str, str]:
    """Column -> a field name that is valid in `image:2`, on a command line and in a network,
    different for each.

    Args:
        columns: of the data.
    """
    names: dict[str, str] = {}
    # Valid names first, so that they stay as they are.
    for column in sorted(columns, key=lambda c: c != _field_name(c)):
        name = _field_name(column)
        while name in names.values():
            name += "_"
        names[column] = name
    return names


def _field_name(column: str) -> str:
    name = re.sub(r"[:./\\]", "_", column.removeprefix("json.").strip()) or "field"
    name = "".join(c if c.isprintable() else "_" for c in name)
    return f"{name}_" if name in RESERVED or name.startswith("_") else name
