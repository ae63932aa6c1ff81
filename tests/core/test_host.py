"""What a step asks of its device, counted in a process of its own: torch cannot forget a device
that was written in Python."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_on_a_device_that_counts():
    call = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-p",
        "no:cacheprovider",
        str(HERE / "on_fake_device.py"),
    ]
    done = subprocess.run(call, cwd=HERE.parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
