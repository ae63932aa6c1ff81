"""What protocols were called before. Reports of then are still read, and the command line still
takes the names."""

OLD_NAMES = {
    "told": "head",
    "absence": "missing_modality_robustness",
    "missing": "missing_modality",
    "source_sets": "modality_subsets",
    "identify": "track_identification",
    "transfer": "cross_modal_transfer",
}
"""Old name -> name."""


def current_name(name: str) -> str:
    """A protocol's name as it is today, of one that may be old or written with dashes."""
    name = name.replace("-", "_")
    return OLD_NAMES.get(name, name)
