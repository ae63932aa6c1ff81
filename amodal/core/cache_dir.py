"""The cache folder of this user."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """$AMODAL_CACHE, or `amodal` in the user's cache folder. It may not exist yet."""
    if chosen := os.environ.get("AMODAL_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/amodal"
    local = (
        os.environ.get("LOCALAPPDATA")
        if sys.platform == "win32"
        else os.environ.get("XDG_CACHE_HOME")
    )
    return Path(local or Path.home() / ".cache").expanduser() / "amodal"
