"""scripts.mutants makes the mistakes that it says, and sees which of them a test notices."""

import ast
import json
import mmap
import sys
import textwrap

import pytest

from scripts.mutants import __main__ as cli
from scripts.mutants import parts
from scripts.mutants.operators import OPERATORS
from scripts.mutants.run import Target, forget, in_fork
from scripts.mutants.trees import mutants


def changes(source, operator, names=None, only=None):
    """What an operator makes of the lines that it changes."""
    tree = ast.parse(textwrap.dedent(source))
    found = mutants(tree, "page.py", only, names or {})
    return [m.after for m in found if m.operator == operator]


IN_LOSS = "def loss(x, y, *, tau=0.1):\n    return {}"


@pytest.mark.parametrize(
    "expression,operator,expected",
    [
        ("f(x.detach())", "drop_detach", ["f(x)"]),
        ("f(a_tau=x, b_tau=y)", "swap_arguments", ["f(a_tau=y, b_tau=x)"]),
        ("f(tau=x, width=y)", "swap_arguments", []),
        ("f(x) + y", "drop_term", ["f(x)", "y"]),
        ("f(x) - y", "drop_term", ["f(x)", "-y"]),
        ("{'a': x, 'b': y}", "drop_term", ["{'b': y}", "{'a': x}"]),
        ("'loss/' + x", "drop_term", []),
        ("f(0.5)", "change_constant", ["f(5.0)", "f(0.0)", "f(-0.5)"]),
        ("f(True)", "change_constant", ["f(False)"]),
        ("x.sum(1)", "change_constant", []),
        ("x[0]", "change_constant", []),
        ("f('image:1')", "exchange_views", ["f('image:2')"]),
        (
            "f(('strong', 'weak'))",
            "exchange_views",
            ["f(('weak', 'weak'))", "f(('strong', 'strong'))"],
        ),
        ("[f(a) for a, b in x]", "exchange_views", ["[f(a) for b, a in x]"]),
        ("f(clock.progress)", "freeze_schedule", ["f(0.0)"]),
        ("self.at(clock)", "freeze_schedule", ["self.at(type(clock)(0, clock.steps))"]),
        ("ema_update(x, y, m)", "skip_state", ["ema_update(x, y, 1.0)"]),
        ("x.lerp_(y, m)", "skip_state", ["x.lerp_(y, 0.0)"]),
        ("f(x / tau)", "ignore_argument", ["f(x / 0.1)"]),
        ("x if y else z", "negate", ["x if not y else z"]),
        ("x[~y]", "negate", ["x[y]"]),
        ("x if y < 2 else z", "negate", ["x if y >= 2 else z"]),
        ("f(x and y)", "negate", ["f(x or y)"]),
        ("x.argmax(1)", "change_reduction", ["x.argmin(1)", "x.argmax(0)"]),
        ("x.softmax(dim=-1)", "change_reduction", ["x.softmin(dim=-1)", "x.softmax(dim=0)"]),
        ("torch.sum(x, 0)", "change_reduction", ["torch.mean(x, 0)", "torch.sum(x, 1)"]),
        ("normalize(x, dim=1)", "drop_function", ["x"]),
        ("torch.exp(x)", "drop_function", ["x"]),
        ("x.square()", "drop_function", ["x"]),
        ("(f(x, y) + f(y, x)) / 2", "one_direction", ["f(x, y)", "f(y, x)"]),
        ("x * y", "change_arithmetic", ["x / y"]),
        ("-f(x)", "change_arithmetic", ["f(x)"]),
    ],
)
def test_each_operator_makes_its_mistake(expression, operator, expected):
    after = [c for c in changes(IN_LOSS.format(expression), operator) if c.startswith("return")]
    assert after == [f"return {e}" for e in expected]


def test_statements_and_gradients():
    source = """
    def loss(x):
        '''Says what it is.'''
        assert x
        if x.bad:
            raise ValueError("bad")
        check_pair(x)
        x = center(x)
        y = scale(x)
        x.terms['a'] = y
        for _ in y:
            pass
        return x

    @torch.no_grad()
    def targets(x):
        with torch.no_grad():
            y = f(x)
        return y

    class Page:
        def on_step_end(self, clock):
            self.center.copy_(self.next)
    """
    tree = ast.parse(textwrap.dedent(source))
    found = mutants(tree, "page.py")
    before = [m.before for m in found if m.operator == "drop_statement"]
    # y has no value before, so the page would only crash without it
    assert before == ["x = center(x)", "x.terms['a'] = y", "for _ in y:\n    pass"]
    detached = [m.line for m in found if m.operator == "drop_detach"]
    assert detached == [16, 17]
    assert [m.before for m in found if m.operator == "skip_state"] == [
        "self.center.copy_(self.next)"
    ]


def test_arguments_that_have_defaults_are_ignored_and_those_of_one_type_swapped():
    def loss(x, *, tau: float = 0.1, beta: float = 0.2, name: str = ""): ...

    source = "def page(x):\n    return loss(x, tau=0.5, beta=0.3, name='a')"
    assert changes(source, "ignore_argument", {"loss": loss}) == [
        "return loss(x, beta=0.3, name='a')",
        "return loss(x, tau=0.5, name='a')",
        "return loss(x, tau=0.5, beta=0.3)",
    ]
    assert changes(source, "swap_arguments", {"loss": loss}) == [
        "return loss(x, tau=0.3, beta=0.5, name='a')"
    ]


def test_a_default_counts_where_a_call_leaves_it_to_be_read():
    source = "def loss(x, *, tau=0.5):\n    return x"
    for call, expected in (("loss(x, tau=1)", 0), ("loss(x)", 3)):
        calls = [ast.parse(call, mode="eval").body]
        found = mutants(ast.parse(source), "page.py", calls=calls)
        assert len([m for m in found if m.operator == "change_constant"]) == expected


def test_recipes_and_other_definitions_are_left_alone():
    source = (
        "RECIPE = {'lr': 0.1}\nSHARE = 0.5\ndef page():\n    return 2\ndef other():\n    return 3"
    )
    after = {m.before for m in mutants(ast.parse(source), "page.py", {"page", "SHARE", "RECIPE"})}
    assert after == {"SHARE = 0.5", "return 2"}


PAGE = """
import torch

class Page:
    def __init__(self):
        self.center = torch.zeros(2)

    def loss(self, x):
        return (x - self.center.detach()).square().sum()

    def on_step_end(self, x):
        self.center.copy_(x.mean(0))

def wait(n):
    while n > 2:
        n = n - 1
    return n
"""
TEST = """
import torch
from made_up_page import Page, wait

def test_loss():
    page = Page()
    page.on_step_end(torch.tensor([[1.0, 3.0], [3.0, 5.0]]))
    assert page.loss(torch.tensor([4.0, 8.0])) == 20
    assert wait(3) == 2
"""
WEAK = """
from made_up_page import Page

def test_there_is_a_page():
    assert Page().center.shape == (2,)
"""


@pytest.fixture
def target(tmp_path, monkeypatch):
    (tmp_path / "made_up_page.py").write_text(PAGE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def build(test):
        file = tmp_path / "test_made_up.py"
        file.write_text(test, encoding="utf-8")
        return Target("made_up_page", tmp_path / "made_up_page.py", None, [str(file)])

    yield build
    for name in ("made_up_page", "test_made_up"):
        sys.modules.pop(name, None)


def assert_outcomes(target, wanted):
    """Of some mutants: (operator, what it makes of the line) -> outcome."""
    assert target.verdict(None, 60).outcome == "survived"
    chosen = [m for m in target.mutants if (m.operator, m.after) in wanted]
    assert {(m.operator, m.after): target.verdict(m, 2).outcome for m in chosen} == wanted


NO_SQUARE = ("drop_function", "return (x - self.center.detach()).sum()")


def test_a_strong_test_kills_and_sees_what_it_cannot(target):
    wanted = {
        # nothing here asks for a gradient
        ("drop_detach", "return (x - self.center).square().sum()"): "survived",
        ("skip_state", "pass"): "killed",
        NO_SQUARE: "killed",
        ("change_arithmetic", "n = n + 1"): "late",
        ("change_constant", "self.center = torch.zeros(20)"): "crashed",
    }
    assert_outcomes(target(TEST), wanted)


def test_a_weak_test_kills_nothing_that_it_does_not_run(target):
    wide = ("change_constant", "self.center = torch.zeros(20)")
    assert_outcomes(target(WEAK), {NO_SQUARE: "survived", wide: "killed"})


def test_mutants_leave_this_process_as_it_is(target):
    made = target(TEST)
    before = ast.dump(made.tree)
    made.verdict(made.mutants[0], 20)
    assert ast.dump(made.tree) == before


def test_a_module_is_imported_anew_from_its_package_too(tmp_path, monkeypatch):
    folder = tmp_path / "package_of_one"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "part.py").write_text("VALUE = []", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from package_of_one import part

    forget("package_of_one.part")
    from package_of_one import part as fresh

    assert fresh is not part and fresh.VALUE is not part.VALUE


def test_tests_that_fail_without_a_mutant_are_refused(target):
    with pytest.raises(SystemExit, match="must pass before mutants are run"):
        target("def test_it():\n    assert False").limit()


def test_a_long_answer_arrives_and_a_dead_fork_is_seen():
    assert in_fork(lambda: {"text": "x" * 200_000}, 20).answer["text"] == "x" * 200_000
    dead = in_fork(lambda: {"text": str(1 / 0)}, 20)
    assert dead.answer == {} and not dead.late


def test_what_the_process_maps_does_not_count_as_memory_of_a_fork(monkeypatch):
    monkeypatch.setattr("scripts.mutants.run.MEMORY", 4 << 30)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    # never touched, as the pools of many libraries
    with mmap.mmap(-1, 5 << 30, flags=flags, prot=mmap.PROT_READ):
        small = in_fork(lambda: {"bytes": str(len(bytes(1 << 30)))}, 20)
        assert small.answer == {"bytes": str(1 << 30)}
        assert in_fork(lambda: {"bytes": str(len(bytes(5 << 30)))}, 20).answer == {}


def test_parts_of_a_page_are_those_that_it_alone_uses():
    scope = parts.scope("dino")
    assert scope["amodal.methods.distillation.dino"] >= {"dino", "Dino"}
    assert "Towers" not in scope["amodal.methods.shared.shapes"]
    assert "coding_rate" in parts.scope("cpp")["amodal.objectives.rate_reduction"]
    assert "amodal.objectives.rate_reduction" not in parts.scope("clip")


def test_shared_parts_exist_and_have_one_page_each():
    entries = [e for listed in parts.SHARED.values() for e in listed]
    assert len(entries) == len(set(entries))
    for page, listed in parts.SHARED.items():
        assert parts.tests_of(page)[0].startswith("tests/golden/"), page
        for entry in listed:
            module, name = entry.split(":")
            assert name in parts.definitions(module), entry
            assert (module, name) in parts.reached(page), (page, entry)


def test_equivalent_mutants_exist_have_a_proof_and_are_few():
    by_page = {}
    for name, entry in cli.equivalents().items():
        by_page.setdefault(entry["page"], []).append((name, entry))
    for page, entries in by_page.items():
        every = {m.name for target in cli.targets(page) for m in target.mutants}
        for name, entry in entries:
            assert name in every, f"{page}: no mutant is called {name} any more; leave it out"
            assert len(entry["proof"].split()) > 4, (page, name)
        assert len(entries) <= 0.05 * len(every), (page, len(entries), len(every))


def test_a_run_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    out = tmp_path / "mutants.jsonl"
    arguments = ["siglip", "--sample", "2", "--seed", "abc", "--out", str(out)]
    assert cli.main(arguments) == 0
    first = out.read_text(encoding="utf-8")
    assert len(first.splitlines()) == 2 and "2 mutants" in capsys.readouterr().out
    monkeypatch.setattr(Target, "verdict", lambda *_: pytest.fail("run a second time"))
    assert cli.main(arguments) == 0
    assert out.read_text(encoding="utf-8") == first


def test_survivors_are_shown_and_too_many_of_them_fail(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "rows", lambda page, options: iter([survivor(page)] * 3))
    assert cli.main(["siglip", "--at-least", "0.8"]) == 1
    shown = capsys.readouterr().out
    assert "page.py:3  drop_term" in shown and "- return a + b" in shown and "+ return a" in shown
    assert json.loads(json.dumps(survivor("siglip")))["outcome"] == "survived"


def survivor(page):
    (mutant, *_) = mutants(ast.parse("\n\ndef f(a, b): return a + b"), "page.py")
    return cli.line_of(page, mutant, "", "survived", "", 0.1)


def test_an_unknown_page_gets_the_nearest_name():
    with pytest.raises(SystemExit, match="Did you mean simclr"):
        cli.main(["simcl"])


def test_every_operator_says_what_it_does():
    assert all(operator.__doc__ for operator in OPERATORS)
