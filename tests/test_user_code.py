"""What code of the user's own raises: its line is named, and nothing of it ends the program."""

import numpy as np
import pytest

import amodal
from amodal import methods, modalities
from amodal.core import AmodalError
from amodal.core.references import load_reference
from amodal.errors import UserCodeError
from amodal.evaluate import Protocol
from amodal.nn.backbones.module import made_module
from amodal.nn.encoder import Encoder


@pytest.fixture
def module(tmp_path):
    def write(text: str, name: str = "f", file: str = "mine.py") -> str:
        (tmp_path / file).write_text(text, encoding="utf-8")
        return f"{tmp_path / file}:{name}"

    return write


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import sys\nsys.exit(2)",
            r"mine.py cannot be run: SystemExit: sys.exit\(2\) \(.*mine.py, line 2\); .*__main__",
        ),
        (
            "class E(BaseException): ...\n\nraise E('odd')",
            r"cannot be run: E: odd \(.*mine.py, line 3\)$",
        ),
        ("raise GeneratorExit", r"cannot be run: GeneratorExit \(.*mine.py, line 1\)$"),
        ("x = 1\ndef f(:", r"cannot be run: SyntaxError: .*mine.py, line 2\)$"),
        ("import no_such_module", r"cannot be run: ModuleNotFoundError: .*mine.py, line 1\)$"),
    ],
)
def test_a_file_that_does_not_run_to_its_end(module, text, words):
    reference = module(text)
    for _ in range(2):  # and again: no half of it may stay behind
        with pytest.raises(AmodalError, match=words):
            load_reference(reference)


def test_a_module_that_ends_the_program(tmp_path, monkeypatch):
    (tmp_path / "ends_here.py").write_text("import sys\nsys.exit()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AmodalError, match=r"'ends_here' cannot be imported: SystemExit.*line 2"):
        load_reference("ends_here:f")


def test_an_interrupt_stays_one(module):
    with pytest.raises(KeyboardInterrupt):
        load_reference(module("raise KeyboardInterrupt"))


@pytest.mark.parametrize("reference", [":f", "mine.py:"])
def test_half_a_reference(reference):
    with pytest.raises(AmodalError, match="it is PACKAGE.MODULE:NAME or FILE.py:NAME"):
        load_reference(reference)


METHOD = """
def f(encoder, *, width: int, keep: float = 0.5, depth: int):
    return None

def deep(encoder):
    x = 3
    return encoder.align("no width")

def ends(encoder):
    import sys
    sys.exit("enough")

async def waits(encoder): ...

def generates(encoder):
    yield encoder
"""


def test_options_without_a_default_are_asked_for_where_they_are_defined(module, encoder):
    reference = module(METHOD)
    words = r"^f\(\) in .*mine.py, line 2, has no default for width, depth, .*--method.width VALUE"
    with pytest.raises(AmodalError, match=words):
        methods.build(reference, encoder)
    with pytest.raises(AmodalError, match="no default for depth, and"):
        methods.build(reference, encoder, width=3)
    with pytest.raises(AmodalError, match=r"f\(\) returned NoneType"):
        methods.build(reference, encoder, width=3, depth=1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "deep",
            r"deep\(\) raised TypeError: .*mine.py, line 7\)$",
        ),  # not a line of ours, below it
        ("ends", r"ends\(\) raised SystemExit: sys.exit\('enough'\) \(.*mine.py, line 11\)"),
        ("waits", r"waits\(\) is async, and nothing awaits it"),
        ("generates", r"generates\(\) is a generator \(it has a yield\)"),
    ],
)
def test_a_method_that_fails_names_the_users_line(module, encoder, name, words):
    with pytest.raises(AmodalError, match=words) as caught:
        methods.build(module(METHOD, name), encoder)
    if isinstance(caught.value, UserCodeError):
        assert "mine.py" in caught.value.code_traceback.splitlines()[1]


def test_a_call_that_does_not_reach_the_code_names_where_it_is_defined():
    def needs(width): ...

    with pytest.raises(
        AmodalError, match=r"raised TypeError: .*'width' \(.*test_user_code.py, line"
    ):
        made_module(needs)


def test_a_backbone_that_ends_the_program():
    def ends():
        raise SystemExit

    with pytest.raises(AmodalError, match=r"ends\(\), .* raised SystemExit: sys.exit\(None\)"):
        made_module(ends)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(0)
    records = {
        "text": [f"number {i % 5}" for i in range(60)],
        "curve": [rng.normal(size=(9, 3)).astype(np.float32) for _ in range(60)],
        "kind": ["even" if i % 2 else "odd" for i in range(60)],
    }
    data = amodal.open(records, fields={"text": "text", "curve": "series"})
    out = tmp_path_factory.mktemp("run") / "run"
    quick = {"size": "nano", "steps": 2, "batch_size": 8, "progress": False, "device": "cpu"}
    return amodal.pretrain("clip", data, out, **quick), data


class Fails(Protocol):
    name = "fails"

    def run(self, context):
        raise ValueError("no vectors")


class Ends(Protocol):
    name = "ends"

    def run(self, context):
        raise SystemExit(3)


class NoContext(Protocol):
    name = "no_context"

    def run(self): ...


class Waits(Protocol):
    name = "waits"

    async def run(self, context): ...


class BadNeeds(Protocol):
    name, needs = "bad_needs", 3

    def run(self, context): ...


class BadOptions(Protocol):
    name, Options = "bad_options", 3

    def run(self, context): ...


class NoStart(Protocol):
    name = "no_start"

    def __init__(self):
        raise ValueError("not yet")


@pytest.mark.parametrize(
    ("protocols", "words"),
    [
        (3, r"protocols must be a list of names or Protocols, such as \['knn'\]; it is 3$"),
        ("knn", "protocols must be a list .* it is 'knn'$"),
        (Fails, "protocols must be a list .* it is type$"),
        ([None], "None is no protocol"),
        ([Fails], r"the protocol fails raised ValueError: no vectors \(.*test_user_code.py, line"),
        ([Ends()], r"the protocol ends raised SystemExit: sys.exit\(3\)"),
        ([NoContext], r"no_context .*`run` takes \(\), .*; it is def run\(self, context\)"),
        ([Waits], "waits .*`run` is async"),
        ([BadNeeds], "`needs` must be a tuple of needs"),
        ([BadOptions], "`Options` must be a dataclass"),
        ([NoStart], r"NoStart\(\), called to make the protocol .* raised ValueError: not yet"),
    ],
)
def test_what_is_no_protocol_and_what_one_raises(run, protocols, words):
    model, data = run
    with pytest.raises(AmodalError, match=words):
        model.evaluate(data, label="kind", protocols=protocols, untrained=False)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model, data, out: model.evaluate(data, label=3), "label must be a name or a list"),
        (
            lambda model, data, out: model.evaluate(data, label="kind", seed="a", untrained=False),
            "seed must be a whole number, 0 or more; it is 'a'$",
        ),
        (lambda model, data, out: amodal.load(3), "the run must be a folder; it is 3$"),
        (
            lambda model, data, out: amodal.load(model.path, backbones=3),
            "backbones must be a dict of field -> module; it is 3$",
        ),
        (
            lambda model, data, out: amodal.load(model.path, device=3),
            "no device is called 3. There are: auto, cpu, cuda",
        ),
        (
            lambda model, data, out: model.adapt(data, out, label=3),
            "label must be the name of a label; it is 3$",
        ),
        (
            lambda model, data, out: model.adapt(data, out, label="kind", options=["a"]),
            "options must be a dict of name -> value; it is list$",
        ),
        (
            lambda model, data, out: model.adapt(data, out, label="kind", shots="a"),
            "shots must be a whole number; it is 'a'$",
        ),
        (
            lambda model, data, out: model.adapt(data, out, label="kind", tuning=3),
            "called 3. There",
        ),
        (
            lambda model, data, out: amodal.pretrain("clip", data, None),
            "out must be the run folder to write; it is NoneType$",
        ),
        (
            lambda model, data, out: amodal.open({"a": ["x"] * 9}, fields={"a": 3}),
            "a name must be a text; it is 3$",
        ),
        (
            lambda model, data, out: amodal.open({"a": ["x"] * 9}, fields=3),
            "fields must be a dict of column -> modality; it is 3$",
        ),
        (
            lambda model, data, out: amodal.open({3: ["x"] * 9}),
            "of name -> values; it is a mapping with the key 3, which is no text$",
        ),
        (lambda model, data, out: modalities.kind(3), "a name must be a text; it is 3$"),
    ],
)
def test_an_argument_of_another_type_says_what_it_must_be(run, call, words, tmp_path):
    with pytest.raises(AmodalError, match=words):
        call(*run, tmp_path / "out")


@pytest.fixture
def encoder():
    fields = {"a": modalities.make("series", channels=["x"]), "b": modalities.make("text")}
    return Encoder(fields, size="nano")
