"""No attribute of an object is set from outside its class."""

import ast

from tests.structure.tree import files

OF_LIBRARIES = {
    ("amodal/studies/storage.py", "connection.isolation_level"): "SQLAlchemy's recipe for SQLite",
    (
        "amodal/cli/__init__.py",
        "warnings.formatwarning",
    ): "the place of the standard library for it",
    ("amodal/core/source_texts.py", "inner.body"): "a tree of `ast` is changed in place",
    ("amodal/data/loader.py", "philox.state"): "numpy sets a generator's key this way alone",
    ("amodal/evaluate/html_report.py", "element.text"): "ElementTree sets a text this way alone",
    ("amodal/data/packaged_llama.py", "tokenizer.decoder"): "as `tokenizers` is used",
    ("amodal/data/packaged_llama.py", "tokenizer.pre_tokenizer"): "as `tokenizers` is used",
    ("amodal/modalities/shared/subwords.py", "tokenizer.decoder"): "as `tokenizers` is used",
    ("amodal/modalities/shared/subwords.py", "tokenizer.pre_tokenizer"): "as `tokenizers` is used",
    ("amodal/data/sets/shared/scenes.py", "file.scales"): "as `rasterio` is used",
    (
        "amodal/nn/backbones/hf_sound.py",
        "self.model.config.max_source_positions",
    ): "transformers has no argument for shorter clips",
    (
        "amodal/nn/backbones/hf_sound.py",
        "self.model.embed_positions",
    ): "transformers has no argument for shorter clips",
    ("amodal/search/_approximate.py", "codes.by_residual"): "faiss has no argument for it",
    ("amodal/search/_approximate.py", "codes.cp.niter"): "faiss has no argument for it",
    ("amodal/search/_approximate.py", "codes.pq.cp.niter"): "faiss has no argument for it",
    ("amodal/search/_approximate.py", "turned.is_trained"): "faiss has no argument for it",
    ("amodal/serve/api.py", "made.state.metrics"): "Starlette's place for what an app shares",
    ("amodal/serve/api.py", "made.state.service"): "Starlette's place for what an app shares",
}
"""(file, attribute of a library's object) -> why it is set."""


def targets(node):
    """The expressions that a statement stores to or deletes."""
    match node:
        case ast.Assign(targets=them) | ast.Delete(targets=them):
            yield from them
        case ast.AugAssign(target=one) | ast.AnnAssign(target=one) | ast.For(target=one):
            yield one
        case ast.With(items=items):
            yield from (item.optional_vars for item in items if item.optional_vars is not None)


def stored(node):
    """The attributes among them, also in tuples."""
    if isinstance(node, ast.Tuple | ast.List):
        for part in node.elts:
            yield from stored(part)
    elif isinstance(node, ast.Starred):
        yield from stored(node.value)
    elif isinstance(node, ast.Attribute):
        yield node


def own_names(scope, cls):
    """Names that are the object itself: self, cls, and what a class makes of itself, as in
    `made = cls(...)` and `Name(...)` inside `class Name`."""
    makers = {"cls"} | ({cls} if cls else set())
    itself = {"self", "cls"}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func) in makers:
                itself |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return itself


def is_torchs(attribute):
    """The context of an autograd function, and the gradient of a tensor."""
    return ast.unparse(attribute.value) == "ctx" or attribute.attr == "grad"


def set_from_outside(tree):
    """(line, attribute) of each store to an attribute of another object, and each `setattr`."""

    def visit(node, cls, itself):
        if isinstance(node, ast.ClassDef):
            cls = node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            itself = own_names(node, cls)
        for target in targets(node):
            for attribute in stored(target):
                of = ast.unparse(attribute.value)
                if of not in itself and not is_torchs(attribute):
                    yield attribute.lineno, f"{of}.{attribute.attr}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SETTERS:
            of = ast.unparse(node.args[0])
            if of not in itself:
                yield node.lineno, f"{ast.unparse(node.func)}({of}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, cls, itself)

    yield from visit(tree, "", {"self", "cls"})


SETTERS = ("setattr", "delattr", "object.__setattr__", "object.__delattr__")


def test_no_attribute_is_set_from_outside_a_class():
    found = {
        (file.as_posix(), name): line
        for file, tree in files().items()
        for line, name in set_from_outside(tree)
    }
    wrong = [f"{file}:{found[file, name]}: {name}" for file, name in found.keys() - OF_LIBRARIES]
    assert not wrong, "give the constructor an argument, or the class a method:\n" + "\n".join(
        sorted(wrong)
    )
    assert found.keys() >= OF_LIBRARIES.keys(), "the list allows what is not there"


def test_what_is_set_from_outside_is_seen():
    tree = ast.parse("""
class Net:
    def __init__(self):
        self.a = cls.b = other.c = 1
        self.d, (e.f, *g.h) = 1, (2, [3])
        self.part.i = 1
    @classmethod
    def like(cls, other):
        made = cls(); twin = Net(); made.j = twin.k = 1
        other.l += 1
        del other.m
        setattr(other, "n", 1)
    def forward(ctx, x):
        ctx.o = x.grad = 1
def f(net):
    made = Net(); made.p = 1
    for net.q in (1,): pass
    with g() as net.r: pass
    object.__setattr__(net, "s", 1)
""")
    names = "other.c e.f g.h self.part.i other.l other.m setattr(other made.p net.q net.r"
    assert [name for _, name in set_from_outside(tree)] == [
        *names.split(),
        "object.__setattr__(net",
    ]
