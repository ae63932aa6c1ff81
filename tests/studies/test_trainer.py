"""Real trainings of a few steps: paired seeds, the validation part, schedules in full."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from amodal.core import AmodalError, Embeddings, Recipe
from amodal.data import open as open_data
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.knn import knn
from amodal.evaluate.protocols.linear import linear
from amodal.studies import Candidate, Job, Setup, Study, Trainer, final, jobs, run, winner
from amodal.studies.questions import answer_all, embedded
from amodal.studies.trainer import shortened, trained


@dataclass(frozen=True)
class Asked:
    name: str
    protocol: str
    row_metric: str
    label: str | None = None
    fields: tuple[str, ...] = ()
    options: dict = field(default_factory=dict)


DIGIT = Asked("digit", "linear", "balanced accuracy", "digit", ("zer",))


@pytest.fixture(scope="module")
def digits():
    data = open_data("digits")
    return data.subset(np.concatenate([data.split(p)[:150] for p in ("train", "valid", "test")]))


def nothing():
    pass


def setup(data, *questions):
    return Setup(data, questions or (DIGIT,), size="nano", batch_size=16)


def job(method="simclr", seed=0, steps=3, **changes):
    return Job(Candidate(method, **changes), "", seed, 0, steps)


def test_a_score_is_that_of_the_validation_part_with_what_was_found_beside_it(digits):
    trainer = Trainer({"": setup(digits.select(["zer"]))})
    measured = trainer(job(steps=20), nothing)
    encoder = trained(trainer.setups[""], job(steps=20)).eval()
    data = digits.select(["zer"])
    train, valid, test = (
        embed_records(encoder, data, data.split(p)) for p in ("train", "valid", "test")
    )
    expected = linear(train, valid, label="digit").value("zer", "balanced accuracy")
    assert measured.score == expected == measured.details["tasks"]["digit"]["value"]
    assert measured.details["tasks"]["digit"]["n"] == len(data.split("valid"))
    assert [step for step, _ in measured.details["curve"]] == [10, 20]
    on_test = Trainer(trainer.setups, part="test")(job(steps=20), nothing).score
    assert on_test == linear(train, test, label="digit").value("zer", "balanced accuracy")


def test_seeds_are_paired(digits):
    one = setup(digits.select(["zer"]))
    weights = [
        dict(trained(one, job(method, seed=seed, recipe=recipe)).named_parameters())
        for method, seed, recipe in (
            ("simclr", 0, {}),
            ("simclr", 0, {}),
            ("simclr", 1, {}),
            ("simclr", 0, {"lr": 1e-12}),
            ("barlow_twins", 0, {"lr": 1e-12}),
        )
    ]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    assert any(not torch.equal(weights[0][n], weights[2][n]) for n in weights[0])
    shared = weights[3].keys() & weights[4].keys()
    assert shared and all(torch.allclose(weights[3][n], weights[4][n]) for n in shared)


def test_questions_of_one_field_of_all_and_of_two(digits):
    data = digits.select(["zer", "mor", "fou"])
    questions = [
        Asked("all", "knn", "accuracy", "digit"),
        Asked("one", "knn", "accuracy", "digit", ("zer",)),
        Asked("two", "knn", "accuracy", "digit", ("zer", "mor")),
        Asked("retrieval", "retrieval", "recall@10", None, ("zer", "mor")),
    ]
    encoder = trained(setup(data, *questions), job("clip")).eval()
    embeddings = embedded(encoder, data, "valid", nothing)
    measured = answer_all(questions, encoder, *embeddings, 0, nothing)
    assert set(measured) == {"all", "one", "two", "retrieval"}
    valid = embed_records(encoder, data, data.split("valid"))
    train = embed_records(encoder, data, data.split("train"))
    two = [Embeddings({"fused": part.fused(("zer", "mor"))}, len(part)) for part in (train, valid)]
    parts = [replace(part, features=z) for part, z in zip((train, valid), two)]
    expected = knn(*parts, label="digit").value("fused", "accuracy")
    assert measured["two"]["value"] == expected
    assert all(0 <= one["value"] <= 1 and one["n"] > 10 for one in measured.values())
    missing = [Asked("x", "knn", "accuracy", "digit", ("nowhere",))]
    with pytest.raises(AmodalError, match="'nowhere'"):
        answer_all(missing, encoder, *embeddings, 0, nothing)


def test_a_method_that_does_not_fit_is_a_result_and_the_winner_is_tested_once(digits, tmp_path):
    candidates = (Candidate("simclr"), Candidate("barlow_twins"), Candidate("clip"))
    study = Study(candidates, seeds=(0, 1), steps=2, rungs=2)
    setups = {"": setup(digits.select(["zer"]))}
    outcomes = run(study, Trainer(setups), tmp_path / "s", progress=False)
    failed = {c.candidate for c, o in outcomes.items() if o.failed}
    assert failed == {"clip"} and not jobs(study, outcomes)
    name = winner(study, outcomes)
    last = final(study, name)
    tested = run(last, Trainer(setups, part="test"), tmp_path / "s", progress=False)
    assert [(c.candidate, c.seed, last.steps_of(c)) for c in tested] == [(name, 0, 4), (name, 1, 4)]
    assert all(o.details["part"] == "test" for o in tested.values())


def test_a_training_is_stopped_between_steps(digits):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise AmodalError("took longer than 1 s")

    with pytest.raises(AmodalError, match="took longer"):
        Trainer({"": setup(digits.select(["zer"]))})(job(steps=1000), check)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("recipe", "warmup"),
    [
        (Recipe(), 0.05),
        (Recipe(epochs=100, warmup_epochs=10), 0.1),
        (Recipe(warmup_epochs=10), 0.2),
        (Recipe(steps=1000, warmup_steps=20), 0.02),
    ],
)
def test_a_short_run_has_the_whole_schedule(recipe, warmup):
    short = shortened(recipe, 40)
    assert short.steps == 40 and short.epochs is None and short.warmup == warmup
    assert short.warmup_of(40) == max(1, round(warmup * 40))


def test_equal_records_are_equal_products_of_steps_and_rows(digits):
    one = replace(setup(digits), equal_records=True)
    assert one.steps(job(steps=30, recipe={"batch_size": 8})) == 60
    assert one.steps(job(steps=30)) == setup(digits).steps(job(steps=30)) == 30
