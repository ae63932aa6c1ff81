"""Run the notebooks, and write them as pages of the site and as files for Jupyter.

    python scripts/notebooks.py [names]     # all of examples/notebooks, or some of them

A notebook is a Python file in the percent format, its one source. It is run in an empty folder, and
an error in any cell ends this with exit code 1. `build/notebooks` then has NAME.ipynb and NAME.md with
what was printed and drawn, which `scripts/site_pages.py` takes into the site.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter
from nbformat import NotebookNode, write

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "examples" / "notebooks"
PAGES = ROOT / "build" / "notebooks"
STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""Bold and italics, which kernels ask for."""
CELL_SECONDS = 900
START_SECONDS = 300
"""In which a kernel must begin: a machine may be busy."""
AT_ONCE = 2
ALL_SECONDS = 600
"""What all notebooks should take together; no limit, since machines are noisy."""


def executed(source: Path) -> NotebookNode:
    """A notebook with its outputs. What is printed on stderr, such as progress, is left out."""
    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            startup_timeout=START_SECONDS,
            kernel_name="python3",
            resources=resources,
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            cell.metadata.pop("execution", None)  # times
            for output in cell.outputs:
                if "text" in output:
                    output.text = STYLE.sub("", output.text)
    return notebook


def cpu_seconds() -> float:
    """Of kernels that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def publish(notebook: NotebookNode, name: str) -> Path:
    """Write the page, its pictures, and the file for Jupyter."""
    PAGES.mkdir(parents=True, exist_ok=True)
    write(notebook, PAGES / f"{name}.ipynb")
    text, made = MarkdownExporter().from_notebook_node(
        notebook, {"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    for file, content in made["outputs"].items():
        (PAGES / file).parent.mkdir(exist_ok=True)
        (PAGES / file).write_bytes(content)
    source = (
        f"[This page as a notebook]({name}.ipynb), with what it printed when the site was built."
    )
    title, _, rest = text.lstrip().partition("\n")
    (PAGES / f"{name}.md").write_text(f"{title}\n\n{source}\n{rest}", encoding="utf-8")
    return PAGES / f"{name}.md"


def run(source: Path) -> None:
    """One notebook, in this process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    )
    start = time.monotonic()
    try:
        publish(executed(source), source.stem)
    except CellExecutionError as error:
        sys.exit(f"{source.name}: {error}")
    seconds = time.monotonic() - start
    print(f"{source.stem}: {seconds:.0f} s, CPU {cpu_seconds():.0f} s", flush=True)


def in_its_own_process(source: Path) -> int:
    return subprocess.run([sys.executable, __file__, source.stem]).returncode


def main(*names: str) -> None:
    sources = {source.stem: source for source in sorted(SOURCES.glob("*.py"))}
    if unknown := {*names} - sources.keys():
        sys.exit(f"no notebook is called {', '.join(unknown)}; there are {', '.join(sources)}")
    chosen = [sources[name] for name in names or sources]
    if len(chosen) == 1:
        return run(chosen[0])
    start = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        codes = [*pool.map(in_its_own_process, chosen)]
    if any(codes):
        sys.exit("not all notebooks ran")
    if (total := time.monotonic() - start) > ALL_SECONDS:
        print(f"the notebooks took {total:.0f} s; on a quiet machine they may take {ALL_SECONDS} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
