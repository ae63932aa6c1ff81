"""Callbacks, loggers and settings that are wrong: a sentence before training, and the user's own
traceback for what their code raises."""

import json
import sys

import pytest

from amodal import cli
from amodal.core import AmodalError
from amodal.errors import UserCodeError
from amodal.train.pretrain import pretrain

QUICK = dict(size="nano", batch_size=16, steps=4, save_every=2, seed=1, progress=False)


class Good:
    def on_log(self, progress, values):
        return {"good": 1}


class NoArguments:
    def on_step(self): ...


class ByKeyword:
    def on_step(self, progress, *, terms): ...


class Number:
    on_step = 3


class Generates:
    def on_step(self, progress, terms):
        yield 3


class Waits:
    async def on_checkpoint(self, progress, path): ...


class Misspelt:
    def on_setp(self, progress, terms): ...


class Property:
    @property
    def on_step(self):
        raise ValueError("not yet")


async def waits(step, values): ...


def generates(step, values):
    yield step


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        ([Good], r"Good is a class: make one of it, callbacks=\[Good\(\)\]"),
        (Good(), r"a list of objects, such as callbacks=\[Good\(…\)\], not of type Good"),
        ("probe:folder", r"callbacks=\[OnlineProbe\(data, label\)\], not of type str"),
        (3, "a list of objects, .* not of type int"),
        ({"mine": Good()}, "a list of objects, .* not of type dict"),
        ((c for c in [Good()]), "a list of objects, .* not of type generator"),
        ([None], "has one of on_step, on_log, on_checkpoint; NoneType has none"),
        ([object()], r"object has none of them. A hook is a method such as def on_log\(self, prog"),
        ([lambda p, v: None], r"lambda> has none .* \(step, values\) is a logger"),
        ([Misspelt()], r"Misspelt has none of them, but on_setp \(did you mean on_step\?\)"),
        (
            [Good(), NoArguments()],
            r"NoArguments.on_step takes \(\), and is called with \(progress, ",
        ),
        (
            [ByKeyword()],
            r"takes \(progress, \*, terms\), .*; a hook is def on_step\(self, progress, ",
        ),
        ([Number()], r"Number.on_step is of type int, and a hook is a method: def on_step\(self"),
        ([Generates()], "Generates.on_step is a generator .* a call runs none of it"),
        ([Waits()], "Waits.on_checkpoint is async, and nothing awaits it"),
        (
            [Property()],
            r"Property, asked for its hooks, raised ValueError: not yet \(.*test_hooks.py",
        ),
    ],
)
def test_what_is_no_callback_is_named_before_training(callbacks, words, folder, tmp_path):
    with pytest.raises(AmodalError, match=words):
        pretrain("clip", folder, tmp_path / "run", callbacks=callbacks, logger=None, **QUICK)
    assert not (tmp_path / "run").exists()


class Logs:
    def __init__(self, project):
        pass

    def __call__(self, step, values): ...


@pytest.mark.parametrize(
    ("logger", "words"),
    [
        (3, "not int"),
        ([None], "not NoneType"),
        ({"a": "wandb"}, "not dict"),
        ((name for name in ["tensorboard"]), "not generator"),
        (Logs, r"Logs is a class: make one of it, logger=Logs\(…\)"),
        (lambda values: None, r"lambda> takes \(values\), and is called with \(step, values\)"),
        (["tensorboard", waits], "waits is async"),
        (generates, "generates is a generator"),
    ],
)
def test_what_is_no_logger_is_named_before_training(logger, words, folder, tmp_path):
    with pytest.raises(AmodalError, match=rf"\(step, values\) -> None.*{words}"):
        pretrain("clip", folder, tmp_path / "run", logger=logger, **QUICK)
    assert not (tmp_path / "run").exists()


class Fails:
    """Fails in a hook at a step, a line below it."""

    def __init__(self, hook, step, error):
        setattr(self, hook, self.call)
        self.step, self.error = step, error

    def call(self, progress, values):
        if progress.step == self.step:
            self.fail()

    def fail(self):
        raise self.error


def sha(run) -> str:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["weights_sha256"]


@pytest.mark.parametrize(
    ("hook", "step", "error", "shown"),
    [
        ("on_step", 3, ValueError("boom"), "ValueError: boom"),
        ("on_log", 4, KeyError("lost"), "KeyError: 'lost'"),
        ("on_checkpoint", 2, SystemExit(3), r"SystemExit: sys.exit\(3\)"),
        ("on_step", 1, OSError("no disk"), "OSError: no disk"),
    ],
)
def test_what_a_callback_raises_names_it_and_the_run_resumes(
    hook, step, error, shown, folder, tmp_path
):
    straight = pretrain("clip", folder, tmp_path / "straight", logger=None, **QUICK)
    run = tmp_path / "run"
    words = (
        rf"Fails of tests.train.test_hooks, called with {hook} at step {step}, raised {shown} \("
    )
    with pytest.raises(UserCodeError, match=words) as caught:
        pretrain("clip", folder, run, callbacks=[Fails(hook, step, error)], logger=None, **QUICK)
    assert caught.value.__cause__ is error and "--resume" in str(caught.value)
    lines = caught.value.code_traceback.splitlines()
    assert "test_hooks.py" in lines[1] and "in call" in lines[1] and "in fail" in "".join(lines)
    resumed = pretrain("clip", folder, run, resume=True, logger=None, **QUICK)
    assert sha(resumed) == sha(straight)


class Stops:
    def on_step(self, progress, terms):
        raise KeyboardInterrupt if progress.step == 2 else AmodalError("as it is")


def test_interrupts_and_sentences_of_a_callback_stay_what_they_are(folder, tmp_path):
    with pytest.raises(AmodalError, match="^as it is$"):
        pretrain("clip", folder, tmp_path / "run", callbacks=[Stops()], logger=None, **QUICK)
    late = Fails("on_step", 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pretrain("clip", folder, tmp_path / "late", callbacks=[late], logger=None, **QUICK)


class Returns:
    def __init__(self, value):
        self.value = value

    def on_log(self, progress, values):
        return self.value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "returned int"),
        ("text", "returned str"),
        ({"a": "text"}, "returned str for 'a'"),
        ({"a": None}, "returned NoneType for 'a'"),
        ({3: 1.0}, "returned 3 as a name"),
        ({"step": 1}, "returned 'step', which is the name of the step itself"),
    ],
)
def test_what_on_log_may_not_return(value, words, folder, tmp_path):
    with pytest.raises(AmodalError, match=f"Returns .* on_log at step 1, {words}; .* name -> num"):
        pretrain("clip", folder, tmp_path / "run", callbacks=[Returns(value)], logger=None, **QUICK)


class Closes:
    def __call__(self, step, values): ...

    def close(self):
        raise ValueError("closed")


def raises(step, values):
    raise ZeroDivisionError("in a logger")


@pytest.mark.parametrize(
    ("logger", "words"),
    [
        (raises, "logger raises of .*test_hooks, called at step 1, raised ZeroDivisionError: in a"),
        (Closes(), "logger Closes of .*test_hooks, called to close, raised ValueError: closed"),
    ],
)
def test_what_a_logger_raises_names_it_and_the_run_resumes(logger, words, folder, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserCodeError, match=words):
        pretrain("clip", folder, run, logger=logger, **QUICK)
    assert pretrain("clip", folder, run, logger=None, resume=True, **QUICK) == run


def test_a_package_of_a_logger_that_fails_names_the_logger(folder, tmp_path, monkeypatch):
    class Package:
        def init(self, **settings):
            raise RuntimeError("no key")

    monkeypatch.setitem(sys.modules, "wandb", Package())
    with pytest.raises(AmodalError, match="logger wandb, called to start, raised RuntimeError: no"):
        pretrain("clip", folder, tmp_path / "run", logger="wandb", **QUICK)


CALLBACK = """
class Mine:
    def __init__(self, data): ...
    def on_step(self, progress, terms):
        raise KeyError("lost")

def nothing(data): ...

def fails(data):
    return 1 / 0
"""


def test_the_command_line_shows_the_traceback_of_the_users_code_alone(folder, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(CALLBACK, encoding="utf-8")
    words = ["pretrain", "clip", "--data", str(folder), "--size", "nano", "--steps", "2"]
    words += ["--logger", "none", "--device", "cpu", "--out", str(tmp_path / "run")]
    for name, first, last in (
        (
            "Mine",
            "line 5, in on_step",
            "error: the callback Mine of mine.py, called with on_step at",
        ),
        ("fails", "line 10, in fails", "error: --callback .*fails(), called with the data, raised"),
        ("nothing", "", "nothing(), called with the data, returned no callback"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--callback", f"{file}:{name}"])
        shown = capsys.readouterr().err
        assert ended.value.code == 2 and first in shown and last.partition(".*")[2] in shown
        assert shown.count("Traceback") == bool(first) and "amodal/train" not in shown


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbones": "convnet"}, "backbones must be field -> backbone, .* 'convnet'$"),
        ({"backbones": ["convnet"]}, "backbones must be field -> backbone, .* it is list$"),
        ({"backbones": {3: "convnet"}}, "backbones must be field -> backbone"),
        ({"fields": "image"}, r"fields must be a list of names, such as .* it is 'image'$"),
        ({"fields": [None]}, "fields must be a list of names"),
        ({"fields": 3}, "fields must be a list of names, .* it is 3$"),
        ({"options": ["width"]}, "options must be a dict of name -> value; it is list$"),
        ({"options": {3: 4}}, "options must be a dict"),
        ({"curate_options": 3, "curate": "jest"}, "curate_options must be a dict"),
        ({"size": 3}, "size must be a word; it is 3$"),
        ({"device": ["cpu"]}, "device must be a word; it is list$"),
        ({"trunk": 3}, "trunk must be a word"),
        ({"pool": [3]}, "pool must be a word"),
        ({"seed": "a"}, "seed must be a whole number of at most 63 bits; it is 'a'$"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": 2**70}, "seed must be a whole number"),
        ({"workers": -1}, "workers must be a whole number, 0 or more; it is -1$"),
        ({"workers": "two"}, "workers must be a whole number"),
        ({"save_every": 0.5}, "save_every must be a whole number"),
        ({"resume": "yes"}, "resume must be True or False; it is 'yes'$"),
        ({"progress": 2}, "progress must be True or False"),
        ({"init_from": 3}, "init_from must be the folder of a run"),
        ({"cache_features": True}, "cache_features must be mean or tokens"),
        ({"only": lambda rows: rows}, "only must be a function .dataset, rows. -> rows"),
        ({"views": 3}, "views must be field or modality -> views"),
        ({"recipe": {"lr": 1e-3}}, "recipe must be an amodal.Recipe, not dict"),
    ],
)
def test_a_setting_of_another_type_says_what_it_must_be(settings, words, folder, tmp_path):
    with pytest.raises(AmodalError, match=words):
        pretrain("clip", folder, tmp_path / "run", **{**QUICK, **settings})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("source", [3, None, print])
def test_what_is_no_data_says_so(source, tmp_path):
    with pytest.raises(AmodalError, match="data is a path, .* or a Dataset, not of type"):
        pretrain("clip", source, tmp_path / "run", **QUICK)
