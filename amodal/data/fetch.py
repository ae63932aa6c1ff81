"""Archives of public packages, downloaded once by the client of their registry: apt-get, pip or
npm, as configured on this machine. Nothing is installed and nothing inside a package is run.

    download(Pypi("seglearn", "1.2.5", sha256="…")) -> Path of the archive in the cache

A set is read from exactly the archive it was written for: a checksum stands beside the version.
Without network and not in the cache is an error, never a stand-in.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from amodal.core.cache_dir import cache_dir
from amodal.errors import AmodalError

ANY = "--any-version takes what there is, and says which version that was; counts may then differ."


def cache() -> Path:
    """Where fetched things are kept, see `cache_dir`."""
    return cache_dir()


@dataclass(frozen=True)
class Package:
    """name, version: as the registry has them; sha256: of the archive; megabytes: of the archive,
    to tell people."""

    name: str
    version: str
    sha256: str = ""
    megabytes: float = 0.0

    registry: ClassVar[str] = ""
    client: ClassVar[str] = ""

    def command(self, any_version: bool) -> list[str]:
        """What downloads the archive into the working directory."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.registry})"


@dataclass(frozen=True)
class Debian(Package):
    registry: ClassVar[str] = "Debian"
    client: ClassVar[str] = "apt-get"

    def command(self, any_version: bool) -> list[str]:
        return [
            self.client,
            "download",
            self.name if any_version else f"{self.name}={self.version}",
        ]


@dataclass(frozen=True)
class Pypi(Package):
    """platform, python: of a wheel that is not for every machine, so that all machines read the
    same one."""

    platform: str = ""
    python: str = ""

    registry: ClassVar[str] = "PyPI"
    client: ClassVar[str] = "pip"

    def command(self, any_version: bool) -> list[str]:
        built_for = (
            ["--platform", self.platform, "--python-version", self.python] if self.platform else []
        )
        wanted = self.name if any_version else f"{self.name}=={self.version}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        return [*pip, "--no-deps", "--only-binary", ":all:", *built_for, wanted]


@dataclass(frozen=True)
class Npm(Package):
    registry: ClassVar[str] = "npm"
    client: ClassVar[str] = "npm"

    def command(self, any_version: bool) -> list[str]:
        return [
            self.client,
            "pack",
            "--silent",
            self.name if any_version else f"{self.name}@{self.version}",
        ]


def download(package: Package, *, any_version: bool = False, say=print) -> Path:
    """The archive, from the cache if it is there. Raises AmodalError: no client, no network, no
    such version, another checksum."""
    folder = cache() / "packages" / package.registry.lower() / package.name.replace("/", "-")
    kept = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in kept:
        if sha256(file) == package.sha256 or (any_version and file == kept[-1]):
            return file
    if package.client != "pip" and shutil.which(package.client) is None:
        raise AmodalError(
            f"{package} is fetched with {package.client}, which this machine does not have. Install it, or put the "
            f"archive (sha256 {package.sha256}) into {folder} yourself."
        )
    size = f", {package.megabytes:g} MB" if package.megabytes else ""
    say(f"fetching {package}{size}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as draft:
        file = _run(package, any_version, Path(draft))
        found = sha256(file)
        if found != package.sha256 and not any_version:
            raise AmodalError(
                f"{file.name} is not the {package} that was expected: its sha256 is {found}, not {package.sha256}. {ANY}"
            )
        if found != package.sha256:
            say(f"{file.name} instead of {package} (sha256 {found})")
        return Path(shutil.move(file, folder / file.name))


def _run(package: Package, any_version: bool, draft: Path) -> Path:
    done = subprocess.run(package.command(any_version), cwd=draft, capture_output=True, text=True)
    files = [file for file in draft.iterdir() if file.is_file()]
    if done.returncode or len(files) != 1:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise AmodalError(
            f"{package} is not in the cache and could not be fetched: {said[-1] if said else 'no archive came'} "
            f"({package.client}). Without network there is no way around; if the registry has another version, {ANY}"
        )
    return files[0]


def sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
