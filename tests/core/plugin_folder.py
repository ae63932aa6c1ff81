"""A distribution with entry points, written into a folder of the path."""

from pathlib import Path


def write(folder: Path, name: str, entries: dict[str, str], source: str, kind: str) -> None:
    """One module `name` (with underscores) and its entry points: name -> object of the module."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8"
    )
    lines = [f"{entry} = {module}:{value}" for entry, value in entries.items()]
    (about / "entry_points.txt").write_text(
        "\n".join([f"[amodal.{kind}]", *lines, ""]), encoding="utf-8"
    )
