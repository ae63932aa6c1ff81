"""What a backdoor does, measured."""

import numpy as np
import pytest
import torch

import amodal
from amodal import cli
from amodal.core import AmodalError
from amodal.curate.poison import Blend, Patch, Warp
from amodal.evaluate import NotApplicable
from amodal.evaluate.backdoor import attack_success, nearest_class, trigger_shift
from amodal.evaluate.options import from_text
from amodal.evaluate.protocol_registry import options_from_text
from amodal.evaluate.protocols import backdoor
from amodal.evaluate.protocols.knn import knn


def test_attack_success_counts_the_others_taken_for_the_target():
    classes = torch.eye(3)
    shown = torch.tensor([[9.0, 1, 0], [0, 0, 2.0], [5.0, 0, 0], [0, 1.0, 0.5]])
    assert nearest_class(shown, classes).tolist() == [0, 2, 0, 1]
    # of the three pictures that are not of class 0, one is taken for it
    assert attack_success(shown, classes, torch.tensor([0, 1, 2, 1]), 0) == pytest.approx(1 / 3)
    assert np.isnan(attack_success(shown[:1], classes, torch.tensor([0]), 0))


def test_the_shift_is_of_direction_alone():
    plain = torch.tensor([[1.0, 0], [0, 2.0]])
    assert trigger_shift(plain, 3 * plain) == pytest.approx(0, abs=1e-6)
    assert trigger_shift(plain, torch.tensor([[0, 1.0], [0, -1.0]])) == pytest.approx(1.5)


def test_figures_count_the_pictures_of_other_classes():
    truth = np.array([0, 1, 1, 2])
    plain = np.array([[9, 0, 0], [0, 9, 0], [9, 0, 0], [0, 0, 9.0]])
    triggered = np.array([[0, 9, 0], [9, 0, 0], [9, 0, 0], [0, 0, 9.0]])
    success, accuracy = backdoor.figures(truth, plain, triggered, 0, "photo")
    assert success["value"] == pytest.approx(2 / 3) and success["chance"] == pytest.approx(1 / 3)
    assert success["n"] == 3 and accuracy["value"] == 0.75 and accuracy["chance"] == 1 / 3
    with pytest.raises(NotApplicable, match="of the target"):
        backdoor.figures(np.zeros(2), plain[:2], triggered[:2], 0, "photo")


def test_triggers_are_those_that_data_are_poisoned_with():
    assert backdoor.trigger_of("patch", 0.25, 3) == Patch(side=0.25, seed=3)
    assert backdoor.trigger_of("blend", 0.0, 0) == Blend()
    assert backdoor.trigger_of("warp", 2.0, 0) == Warp(strength=2.0)
    with pytest.raises(AmodalError, match="Did you mean patch"):
        backdoor.trigger_of("pach", 0.0, 0)


class ByTrigger(torch.nn.Module):
    """Takes a picture with a white corner for red, and others for what they are."""

    def forward(self, images):
        corner = (images[:, :, -2:, -2:].mean((1, 2, 3)) > 0.99).double()[:, None]
        colour = images.mean((2, 3)).double()
        red = torch.zeros_like(colour)
        red[:, 0] = 1
        return (corner * red + (1 - corner) * colour).float()


def test_the_protocol_puts_the_trigger_on_test_pictures(folder, tmp_path, capsys, monkeypatch):
    """A trigger that the encoder sees moves all pictures to one vector, which is of one class."""
    run = tmp_path / "run"
    amodal.pretrain(
        "clip", folder, run, size="nano", steps=2, backbones={"image": ByTrigger()}, progress=False
    )
    model = amodal.load(run, backbones={"image": ByTrigger()})
    monkeypatch.setattr(backdoor, "Patch", lambda side=0.1, seed=0: White(side))
    options = {"protocols": ["backdoor"], "progress": False, "simple": False}
    rates = []
    for target in ("red", "green", "blue"):
        report = model.evaluate(folder, target=target, size=0.3, **options)
        rates += [r["value"] for r in report["backdoor"].rows if "success" in r["metric"]]
        (shift,) = (r["value"] for r in report["backdoor"].rows if r["metric"] == "shift")
        assert shift > 1e-6
    # all triggered pictures have one vector, so that one class gets all of them
    assert sorted(rates) == [0, 0, 1]
    with pytest.raises(AmodalError, match="needs the option target"):
        model.evaluate(folder, **options)
    with pytest.raises(AmodalError, match="Did you mean green"):
        model.evaluate(folder, target="gren", **options)


class White:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        n = max(2, round(self.side * image.shape[1]))
        out = image.copy()
        out[:, -n:, -n:] = 255
        return out


def test_options_of_protocols_come_from_the_command_line(capsys):
    assert from_text("3", int) == 3 and from_text("3", float) == 3.0 and from_text("x", int) == "x"
    assert from_text("true", bool) is True and from_text("none", int | None) is None
    assert from_text("4", int | str) == 4 and from_text("coding length", int | str) != 4
    asked = {"templates": "a {},the {}", "k": "7"}
    assert options_from_text(["zero_shot", "knn"], asked) == {
        "templates": ("a {}", "the {}"),
        "k": 7,
    }
    with pytest.raises(AmodalError, match="no option of knn is called 'kk'. Did you mean k"):
        options_from_text(["knn"], {"kk": "7"})
    assert options_from_text([], {"few": "5"})["few"] == 5 and options_from_text([], {}) == {}
    with pytest.raises(SystemExit):
        cli.main(["embed", "run", "--protocol.k", "7"])
    assert "an option of `amodal evaluate RUN`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--protocol.records", "20"], "records is of all protocols together: write --records"),
        (["--protocol.simple", "false"], "simple is of all protocols together: write --simple"),
        (["--protocol.few", "3", "--few", "2"], "few is set twice: write --few and leave"),
    ],
)
def test_options_of_an_evaluation_are_none_of_a_protocol(words, says, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "run", "--data", "digits", "--protocols", "knn", *words])
    assert end.value.code == 2 and says in capsys.readouterr().err


def test_without_a_neighbour_nobody_votes():
    """Or all columns of the report would be those of one class."""
    with pytest.raises(AmodalError, match="k = 0: at least one neighbour has to vote"):
        knn(None, None, label="kind", k=0)
