"""What code of the user's own raises: its line is named, and nothing of it ends the program."""

import pytest

from amodal import methods
from amodal.core import AmodalError
from amodal.core.references import load_reference
from amodal.errors import UserCodeError
from amodal.nn.backbones.module import made_module


@pytest.fixture
def module(tmp_path):
    def write(text: str, name: str = "f", file: str = "mine.py") -> str:
        (tmp_path / file).write_text(text)
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
    (tmp_path / "ends_here.py").write_text("import sys\nsys.exit()\n")
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


@pytest.fixture
def encoder():
    from amodal import modalities
    from amodal.nn.encoder import Encoder

    fields = {"a": modalities.make("series", channels=["x"]), "b": modalities.make("text")}
    return Encoder(fields, size="nano")
