"""What a new user does first, in an environment that has nothing else: install, README, demo, view.

    python scripts/fresh_install.py [--minutes 0.2]

The wheel of this checkout is installed with the extra `view` alone, so whatever an example needs
beyond that is missed here, as a user would miss it. Whatever fails ends it with its output and exit
code 1.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
WAIT = 600
"""Seconds until the page must answer: it embeds the 7,200 records of the demo first."""


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder, without this checkout among its modules. Exits if it fails."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    shown = " ".join(Path(word.partition("\n")[0]).name for word in command)
    print(f"{time.monotonic() - began:6.0f} s  {shown}", flush=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\nfailed: {shown}")
    if "Traceback" in done.stderr:
        sys.exit(f"{done.stderr[-3000:]}\na traceback: {shown}")
    return done.stdout


def first_example() -> str:
    """The first block of Python in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    if found is None:
        sys.exit("the README has no example in Python")
    return found[1]


def is_up(port: int) -> bool:
    """Whether the page of a run answers with the page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            return page.status == 200 and b"amodal" in page.read()
    except (urllib.error.URLError, OSError):
        return False


def view(program: Path, run_folder: Path, folder: Path) -> None:
    """Open the page of a run. Exits if it does not answer in `WAIT` seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program), "view", str(run_folder), "--port", str(port)]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as page:
        end = time.monotonic() + WAIT
        while not is_up(port):
            if page.poll() is not None or time.monotonic() > end:
                page.kill()
                said = page.stdout.read().decode() if page.stdout else ""
                sys.exit(f"{said[-3000:]}\n`amodal view` gives no page")
            time.sleep(0.5)
        page.kill()
    print("          amodal view answers", flush=True)


def main() -> None:
    """Install, and try."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", default="0.2", help="of training in `amodal demo`")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", name]
        run([*build, str(ROOT)], folder)
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        programs = folder / "env" / "bin"
        python, program = programs / "python", programs / "amodal"
        run([str(python), "-m", "pip", "install", "-q", f"{wheel}[view]"], folder)
        print("         ", run([str(program), "--version"], folder).strip())
        run([str(python), "-c", first_example()], folder)
        table = run([str(program), "demo", "--minutes", asked.minutes, "--out", "demo"], folder)
        if "recall@10" not in table:
            sys.exit(f"{table[-3000:]}\n`amodal demo` prints no table")
        view(program, folder / "demo", folder)


if __name__ == "__main__":
    main()
