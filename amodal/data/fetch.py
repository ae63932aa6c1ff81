"""Downloads of public packages by the client of their registry: apt-get, pip or npm.

    download(Pypi("seglearn", "1.2.5", sha256="…")) -> Path of the archive in the cache

The clients are used as configured on this machine. Nothing is installed, and nothing inside a
package is run. A checksum stands beside each version, so a set is read from exactly the archive
that it was written for. An archive that is neither in the cache nor to be had is an error.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from amodal.core.cache_dir import cache_dir
from amodal.errors import AmodalError

ANY_VERSION_HINT = (
    "--any-version takes what there is, and says which version that was; counts may then differ."
)


def cache() -> Path:
    """The folder of everything that was downloaded, see `cache_dir`."""
    return cache_dir()


REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class Package:
    """A package of a registry.

    Attributes:
        name: as the registry has it.
        version: as the registry has it.
        sha256: of the archive.
        megabytes: of the archive, to say before a download.
    """

    name: str
    version: str
    sha256: str = ""
    megabytes: float = 0.0

    registry: ClassVar[str] = ""
    client: ClassVar[str] = ""

    def command(self, any_version: bool) -> list[str]:
        """The command line that downloads the archive into the working directory, where
        `REQUIREMENTS` is a file of pip with its checksum."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.registry})"


@dataclass(frozen=True)
class Debian(Package):
    """A package of the Debian archive."""

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
    """A wheel of PyPI, or a source distribution.

    Attributes:
        source: the source distribution. pip asks its build script for metadata, which runs code of
            the package, so it compares the checksum first.
        platform: of a wheel that is not for every machine, so that all machines read the same one.
        python: its version, with `platform`.
    """

    platform: str = ""
    python: str = ""
    source: bool = False

    registry: ClassVar[str] = "PyPI"
    client: ClassVar[str] = "pip"

    def command(self, any_version: bool) -> list[str]:
        built_for = (
            ["--platform", self.platform, "--python-version", self.python] if self.platform else []
        )
        wanted = self.name if any_version else f"{self.name}=={self.version}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        if self.source:
            hashed = [wanted] if any_version else ["--require-hashes", "-r", REQUIREMENTS]
            return [*pip, "--no-deps", "--no-binary", ":all:", *hashed]
        return [*pip, "--no-deps", "--only-binary", ":all:", *built_for, wanted]


@dataclass(frozen=True)
class Npm(Package):
    """A package of npm."""

    registry: ClassVar[str] = "npm"
    client: ClassVar[str] = "npm"

    def command(self, any_version: bool) -> list[str]:
        return [
            self.client,
            "pack",
            "--silent",
            self.name if any_version else f"{self.name}@{self.version}",
        ]


def download(
    package: Package, *, any_version: bool = False, say: Callable[[str], object] = print
) -> Path:
    """Download an archive, unless it is in the cache.

    Args:
        package: to download.
        any_version: take another version or checksum.
        say: takes the lines about progress.

    Returns:
        The archive in the cache.

    Raises:
        AmodalError: no client, no network, no such version, or another checksum.
    """
    folder = cache() / "packages" / package.registry.lower() / package.name.replace("/", "-")
    cached = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in cached:
        if sha256(file) == package.sha256 or (any_version and file == cached[-1]):
            return file
    if package.client != "pip" and shutil.which(package.client) is None:
        raise AmodalError(
            f"{package} is fetched with {package.client}, which this machine does not have. "
            f"Install it, or put the archive (sha256 {package.sha256}) into {folder} yourself."
        )
    size = f", {package.megabytes:g} MB" if package.megabytes else ""
    say(f"fetching {package}{size}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as draft:
        file = _run(package, any_version, Path(draft))
        digest = sha256(file)
        if digest != package.sha256 and not any_version:
            raise AmodalError(
                f"{file.name} is not the {package} that was expected: its sha256 is {digest}, "
                f"not {package.sha256}. {ANY_VERSION_HINT}"
            )
        if digest != package.sha256:
            say(f"{file.name} instead of {package} (sha256 {digest})")
        return Path(shutil.move(file, folder / file.name))


def _run(package: Package, any_version: bool, draft: Path) -> Path:
    requirements = draft / REQUIREMENTS
    pinned = f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"
    requirements.write_text(pinned, encoding="utf-8")
    done = subprocess.run(package.command(any_version), cwd=draft, capture_output=True, text=True)
    requirements.unlink()
    files = [file for file in draft.iterdir() if file.is_file()]
    if done.returncode or len(files) != 1:
        output = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise AmodalError(
            f"{package} is not in the cache and could not be fetched: "
            f"{output[-1] if output else 'no archive came'} ({package.client}). Without network "
            f"there is no way around; if the registry has another version, {ANY_VERSION_HINT}"
        )
    return files[0]


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as 64 hex digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
