"""Build the source distribution and the wheel, and look what they hold.

    python scripts/check_dist.py [folder]

The wheel is built from the source distribution, as an installer would. Whatever is wrong ends it
with a message and exit code 1.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
GENERATED = ("PKG-INFO", "setup.cfg", "amodal.egg-info/")
"""What setuptools adds to a source distribution."""


def tracked() -> set[str]:
    """Files of the repository."""
    command = ["git", "ls-files"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {file for file in found.stdout.splitlines() if (ROOT / file).exists()}


def build(out: Path) -> tuple[set[str], set[str]]:
    """The files of the source distribution, without its first folder, and those of the wheel."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        sys.exit(f"{built.stdout[-3000:]}\n{built.stderr[-3000:]}")
    if "DeprecationWarning" in built.stderr + built.stdout:
        sys.exit(f"the build warns:\n{built.stdout[-3000:]}\n{built.stderr[-3000:]}")
    (source,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    with tarfile.open(source) as archive:
        packed = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        return packed, set(archive.namelist())


def problems(files: set[str], source: set[str], wheel: set[str]) -> list[str]:
    """What is missing from a source distribution and a wheel, and what should not be in them.

    Args:
        files: Of the repository.
    """
    files = {f for f in files if not f.startswith(".git")}
    package = {f for f in files if f.startswith("amodal/")}
    found = [f"not in the source distribution: {f}" for f in files - source]
    found += [f"not in the wheel: {f}" for f in package - wheel]
    extra = {f for f in wheel - package if ".dist-info/" not in f}
    found += [f"in the wheel, and not of the package: {f}" for f in extra]
    stray = {f for f in source - files if not f.startswith(GENERATED)}
    found += [f"in the source distribution, and not of the repository: {f}" for f in stray]
    return sorted(found)


def main(folder: str = "") -> None:
    with tempfile.TemporaryDirectory() as temporary:
        source, wheel = build(Path(folder or temporary))
    if found := problems(tracked(), source, wheel):
        sys.exit("\n".join(found))
    print(f"source distribution: {len(source)} files; wheel: {len(wheel)} files; both are whole")


if __name__ == "__main__":
    main(*sys.argv[1:])
