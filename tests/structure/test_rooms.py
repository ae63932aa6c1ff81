"""Rooms are stacked: imports point down, nothing private is imported across, no file is long."""

import ast
from pathlib import Path

from tests.structure.tree import PACKAGE, files, for_types_only, imports, room

FLOOR = {
    "core": 0,
    "masking": 1,
    "objectives": 1,
    "stats": 1,
    "modalities": 2,
    "nn": 3,
    "data": 3,
    "methods": 4,
    "curate": 5,
    "diagnose": 5,
    "train": 6,
    "plan": 7,
    "inference": 7,
    "evaluate": 8,
    "cluster": 9,
    "maps": 9,
    "studies": 9,
    "search": 9,
    "selection": 9,
    "linkage": 9,
    "export": 10,
    "serve": 11,
    "cli": 12,
}
BESIDE = {
    "errors": 0,
    "progress": 0,
    "console": 0,
    "catalog": 4.5,
    "recipe_table": 4.4,
    "untrained": 8,
    "evaluation": 10.4,
    "model": 10.5,
    "run_ensemble": 10.6,
    "estimator": 11,
    "adapt": 10.4,
    "demo": 12,
    "doctor": 12,
}
"""Modules beside the rooms."""


def floor(module):
    """How high a module lies; the package itself lies below all, since it imports when asked."""
    return (FLOOR | BESIDE).get(module[1], 0) if len(module) > 1 else 0


def test_every_room_has_a_floor():
    rooms = {room(file.with_suffix("").parts) for file in files()} - {""}
    assert rooms == set(FLOOR)


def test_imports_point_down():
    up = [
        f"{file}:{node.lineno} imports {'.'.join(module)}"
        for file, tree in files().items()
        for types in [for_types_only(tree)]
        for module, node in imports(file, tree)
        if node not in types  # what only a checker of types reads
        if module[0] == "amodal" and floor(module) > floor(file.with_suffix("").parts)
        if file.name != "__main__.py" and file.parts != ("amodal", "__init__.py")
    ]
    assert not up, "\n".join(up)


def test_nothing_private_is_imported_across_rooms():
    found = []
    for file, tree in files().items():
        here = room(file.with_suffix("").parts)
        for module, node in imports(file, tree):
            if module[0] != "amodal" or len(module) < 2 or room(module) == here:
                continue
            names = [*module[1:]]
            if isinstance(node, ast.ImportFrom):
                names += [alias.name for alias in node.names]
            if any(map(is_private, names)):
                found.append(f"{file}:{node.lineno}: {', '.join(names)}")
    assert not found, "\n".join(found)


OF_LIBRARIES = {
    ("amodal/cli/__init__.py", "_exit"): "Python's own way to end without waiting for threads",
    ("amodal/studies/storage.py", "_trial_id"): "Optuna's own documentation names it for storages",
    ("amodal/data/sets/shared/archives.py", "_reconstruct"): "numpy's pickles name this function",
    ("amodal/data/store.py", "_strip_protocol"): "fsspec's hook for the path in an address",
    ("amodal/methods/shared/shapes.py", "_foreach_lerp_"): "torch's call for many tensors at once",
    ("amodal/nn/attention/cpu.py", "_softmax_backward_data"): "torch's own backward of softmax",
    ("amodal/nn/batch_norm.py", "_modules"): "a child of a torch module, replaced by its name",
    ("amodal/train/optim.py", "_foreach_mul_"): "torch's call for many tensors at once",
    ("amodal/train/optim.py", "_foreach_norm"): "torch's call for many tensors at once",
    ("amodal/train/test_time.py", "_BatchNorm"): "the one class above all of torch's batch norms",
} | {
    ("amodal/plan/counting.py", name): "counts what torch dispatches, by torch's own names"
    for name in (
        *("_cdata", "_local_scalar_dense", "_overloadpacket", "_parameters", "_schema"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_unsafe_index"),
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    )
}
"""(file, private attribute of a library's object) -> why it is used."""


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def defined_in(tree):
    """Names of functions and classes, and of attributes that are set or declared."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def private_access(tree):
    """(line, name) of each private attribute of another object, which the file does not define."""
    own = set(defined_in(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr) or node.attr in own:
            continue
        of = ast.unparse(node.value)
        if of not in ("self", "cls") and not of.startswith("super("):
            yield node.lineno, node.attr


def test_nothing_private_of_another_object_is_used():
    found = {
        (file.as_posix(), name): line
        for file, tree in files().items()
        for line, name in private_access(tree)
    }
    wrong = [f"{file}:{found[file, name]}: {name}" for file, name in found.keys() - OF_LIBRARIES]
    assert not wrong, "\n".join(sorted(wrong))
    assert found.keys() >= OF_LIBRARIES.keys(), "the list allows what is not there"


def test_private_access_is_seen():
    tree = ast.parse("""
class A:
    def __init__(self):
        self._mine = self._inherited = super()._made
    def _own(self, other):
        return other._mine, other._own(), other._theirs, self.other._deep, f()._made
""")
    assert [name for _, name in private_access(tree)] == ["_theirs", "_deep", "_made"]


def test_no_module_imports_itself_by_way_of_others():
    """At import time: statements inside functions and for types are left out."""
    graph = {}
    for file, tree in files().items():
        name = file.with_suffix("").parts
        name = name[:-1] if name[-1] == "__init__" else name
        inner = {
            id(n)
            for f in ast.walk(tree)
            if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
            for n in ast.walk(f)
        }
        types = for_types_only(tree)
        graph[name] = {
            module
            for module, node in imports(file, tree)
            if module[0] == "amodal" and id(node) not in inner and node not in types
        }
    state: dict[tuple, int] = {}

    def visit(name, way):
        state[name] = 1
        for other in sorted(graph.get(name, ())):
            if other == name or other not in graph:
                continue
            if state.get(other) == 1:
                circle = [*way[way.index(other) :], other]
                raise AssertionError(" -> ".join(".".join(n) for n in circle))
            if other not in state:
                visit(other, [*way, other])
        state[name] = 2

    for name in sorted(graph):
        if name not in state:
            visit(name, [name])


LONGEST = 400


def test_no_file_is_long():
    """A page is as long as its paper; everything else can be read in one sitting."""
    long = [
        f"{file}: {lines}"
        for file, lines in ((f, len(f.read_text(encoding="utf-8").splitlines())) for f in files())
        if lines > LONGEST and "methods" not in file.parts
    ]
    assert not long, long


def test_what_everything_hangs_on_stays_small():
    assert len((PACKAGE / "nn/encoder.py").read_text(encoding="utf-8").splitlines()) <= 150
    tree = files()[Path("amodal/train/pretrain.py")]
    node = next(n for n in ast.walk(tree) if getattr(n, "name", "") == "pretrain")
    assert node.end_lineno - node.lineno + 1 <= 60
