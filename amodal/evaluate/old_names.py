"""Names of protocols, options and rows before they were renamed.

Reports with old names are still read, and the command line and `evaluate` still take them.
"""

OLD_NAMES = {
    "told": "head",
    "absence": "missing_modality_robustness",
    "missing": "missing_modality",
    "source_sets": "modality_subsets",
    "identify": "track_identification",
    "transfer": "cross_modal_transfer",
}
"""Old name of a protocol -> its name."""

OLD_OPTIONS = {"at": "recall_at", "find": "retrieve"}
"""Old name of an option of `evaluate` -> its name."""

OLD_SOURCES = {"several": "multi_vector"}
"""What rows of `small_objects` were called as `source` -> what they are called."""


def current_name(name: str) -> str:
    """A protocol's name as it is today, for one that may be old or written with dashes."""
    name = name.replace("-", "_")
    return OLD_NAMES.get(name, name)
