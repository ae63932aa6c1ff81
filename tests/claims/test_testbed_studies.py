"""The scripts on testbeds: scores, files that go on elsewhere, the winners' file, the page."""

import json
import tomllib

import pytest
import testbeds
from testbeds import grid, studies, yardsticks
from testbeds.commands import defaults, encoders, table
from testbeds.studies import OnTestbeds, Options, Setups, Stored

from amodal.core import AmodalError
from amodal.modalities import make
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.batch_norm import active_norms
from amodal.studies import Candidate, Limits, Measured, Outcome, Study, jobs
from amodal.train.collapse_monitor import TrainingStopped

FITS = {"image": ["a", "b", "c"], "table": ["d", "e", "f"]}


def played(study, score):
    outcomes = {}
    while todo := jobs(study, outcomes):
        outcomes |= {c: Outcome(score(c), details={"steps": study.steps_of(c)}) for c in todo}
    return outcomes


def study(**changes):
    steps = {bed: 10 for beds in FITS.values() for bed in beds}
    candidates = tuple(
        Candidate("simclr", recipe={"weight_decay": w}, name=f"decay {w}") for w in (0.1, 0.2, 0.3)
    )
    return Study(candidates, **{"seeds": (0,), "steps": steps, "rungs": 2, "name": "s"} | changes)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Yardsticks of digits, in a folder."""
    cells = [
        {"task": task.name, "part": "valid", "method": method, "variant": "", "value": value}
        for task in testbeds.testbed("digits").tasks
        for method, value in (("chance", 0.1), ("simple features", 0.6), ("forest", 0.7))
    ]
    (tmp_path / "digits.json").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    monkeypatch.setattr(yardsticks, "RESULTS", tmp_path)
    return studies.Yardsticks("digits")


def test_the_score_is_the_room_won(measured):
    bed = testbeds.testbed("digits")
    values = {task.name: 0.8 for task in bed.tasks}
    assert studies.room_won(bed, "clip", values) == pytest.approx(0.5)
    values["profiles by Fourier"] = 0.0
    assert studies.room_won(bed, "simclr", values) == pytest.approx(0.5), "a retrieval counts"
    assert studies.room_won(bed, "clip", values) < 0
    assert measured.best_peer(bed.tasks[0].name) == ("forest ", 0.7)
    with pytest.raises(AmodalError, match="python -m testbeds yardsticks digits"):
        measured.of("another task", "chance")


def test_a_collapsed_run_has_the_score_of_chance(measured):
    def collapsed(job, check):
        raise TrainingStopped("the features have collapsed")

    one = Study((Candidate("simclr"),), (0,), {"digits": 4}, 1)
    found = OnTestbeds(collapsed)(one.job(jobs(one, {})[0]), lambda: None)
    assert (
        found.score == pytest.approx((0.1 - 0.6) / 0.4) and "collapsed" in found.details["stopped"]
    )
    ok = OnTestbeds(
        lambda job, check: Measured(
            0.0, {"tasks": {t.name: {"value": 0.6} for t in testbeds.testbed("digits").tasks}}
        )
    )
    assert ok(one.job(jobs(one, {})[0]), lambda: None).score == pytest.approx(0.0)


def test_results_go_on_elsewhere_and_those_of_another_study_are_refused(tmp_path):
    one = study()
    outcomes = played(one, lambda c: float(c.candidate[-1]))
    stored = Stored(tmp_path / "a" / "s.json", one, {"unfit": {}})
    half = dict(list(outcomes.items())[:10])
    stored.write(half)
    assert (
        stored.read() == half and json.loads(stored.path.read_text(encoding="utf-8"))["unfit"] == {}
    )
    worked = []

    def objective(job, check):
        worked.append(job)
        return Measured(float(job.candidate.name[-1]))

    found = studies.work(stored, objective, float("inf"), studies.Limits())
    assert len(worked) == len(outcomes) - 10 and stored.read() == found
    assert {c: o.score for c, o in found.items()} == {c: o.score for c, o in outcomes.items()}
    with pytest.raises(AmodalError, match="its seeds differ"):
        Stored(stored.path, study(seeds=(1,))).read()


def test_winners_are_written_with_those_of_a_kind_that_clearly_differs(tmp_path):
    one, kinds = study(rungs=1), {b: k for k, beds in FITS.items() for b in beds}
    gain = {
        "image": {"decay 0.1": 1.0, "decay 0.2": 0.9},
        "table": {"decay 0.1": 0.0, "decay 0.2": 0.3},
    }

    def score(cell):
        return gain[kinds[cell.data]].get(cell.candidate, -1.0) + 0.01 * "abcdef".index(cell.data)

    stored, file = Stored(tmp_path / "s.json", one, {"kinds": kinds}), tmp_path / "small.toml"
    outcomes = played(one, score)
    defaults.write(file, "simclr", stored, outcomes, ["--budget", "9"])
    defaults.write(file, "mae", stored, outcomes, ["--budget", "9"])
    read = tomllib.loads(file.read_text(encoding="utf-8"))
    assert set(read) == {"simclr", "mae"}
    assert read["simclr"] == {
        "recipe": {"weight_decay": 0.2},
        "kinds": {"image": {"weight_decay": 0.1}},
    }
    assert (
        file.read_text(encoding="utf-8").splitlines()[3]
        == "# python -m testbeds defaults --budget 9"
    )
    assert "commit" in file.read_text(encoding="utf-8").splitlines()[4]


def test_the_network_of_each_kind_is_the_best_over_testbeds(tmp_path, monkeypatch, capsys):
    steps = {"table": {"digits": 4, "wine": 4}, "series": {"watch": 4}}
    try:  # beds that are not here are left out
        for bed in ("digits", "wine", "watch"):
            testbeds.testbed(bed).open()
    except AmodalError as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(encoders, "ENCODER_STEPS", steps)
    monkeypatch.setattr(encoders, "ENCODERS", {k: grid.ENCODERS[k] for k in steps})
    small, wide = grid.ENCODERS["table"]
    scores = {
        ("digits", "tokens"): 0.5,
        ("digits", small): 0.4,
        ("digits", wide): 0.6,
        ("wine", "tokens"): 0.0,
        ("wine", small): 0.4,  # .4 in the mean, as much as no other
        ("wine", wide): 0.1,
        ("watch", "tokens"): 0.9,
    }
    seen = []

    def objective(job, check):
        seen.append(job)
        return Measured(scores.get((job.data, job.candidate.name), 0.0))

    monkeypatch.setattr(encoders, "OnTestbeds", lambda trainer: objective)
    file = tmp_path / "small.toml"
    file.write_text("[simclr.recipe]\nlr = 0.5\n[mae.recipe]\nlr = 0.1\n", encoding="utf-8")
    command = ["--only", "simclr", "--out", str(tmp_path / "results"), "--write", str(file)]
    command += ["--only", "simclr,digits,wine,watch"]
    assert encoders.main(command) == 0
    written = tomllib.loads(file.read_text(encoding="utf-8"))
    assert written == {
        "simclr": {"recipe": {"lr": 0.5}, "encoders": {"table": small}},
        "mae": {"recipe": {"lr": 0.1}},
    }
    tables = {field: small for field in testbeds.testbed("digits").fields}
    assert tables in [dict(job.candidate.backbones) for job in seen if job.data == "digits"]
    assert len(seen) == 9 * len(grid.ENCODER_SEEDS)
    assert encoders.main(command) == 0 and len(seen) == 9 * len(grid.ENCODER_SEEDS), "it is stored"


def test_a_method_that_follows_compares_tokens_with_the_winner_of_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "small_encoders", lambda name: {"simclr": {"table": "mlp"}}[name])
    assert encoders.networks("vicreg", "table") == ("mlp",)
    assert encoders.networks("vicreg", "series") == ()
    assert encoders.networks("simclr", "series") == grid.ENCODERS["series"]
    followed = encoders.study_of("vicreg", "table", "wine", 4, tmp_path, setups := Setups(["wine"]))
    assert [one.name for one in followed.study.candidates] == ["tokens", "mlp"]
    assert followed.study.seeds == grid.FOLLOW_SEEDS
    options = Options(("vicreg",), ("wine",), tmp_path, 4, 0.0, Limits())
    assert encoders.measured("vicreg", "series", options, setups) == {}
    assert set(grid.FOLLOWS.values()) <= set(grid.AUGMENTATION) - set(grid.FOLLOWS)


def test_networks_of_the_grid_leave_micro_batches_alone():
    for kind, specs in grid.ENCODERS.items():
        field = {"image": {"size": 28}, "table": {"columns": ("a", "b")}, "series": {}}[kind]
        for spec in specs:
            assert not active_norms(backbone(spec, make(kind, **field), 8).train()), spec


def test_the_grid_is_of_real_methods_and_valid_recipes():
    for method in grid.AUGMENTATION:
        made = [Candidate(method, recipe=r, name=n) for n, r in grid.recipes(method).items()]
        assert len(made) == 12 and all(c.full_recipe() for c in made)


def test_the_page_is_written_from_what_is_stored(tmp_path, measured):
    bed = testbeds.testbed("digits")
    one = Study(
        (
            Candidate("simclr", name="simclr"),
            Candidate("clip", name="clip"),
            Candidate("mae", name="mae"),
        ),
        (0, 1),
        {"digits": 100},
        2,
        name="digits",
    )
    details = {"cpu_seconds": 12.0, "peak_bytes": 2**30, "tasks": {}}
    outcomes = {}
    while todo := jobs(one, outcomes):
        for c in todo:
            value = {"clip": 0.9, "simclr": 0.8, "mae": 0.5}[c.candidate] + 0.01 * c.seed
            one_task = {"value": value, "joined": value + 0.04, "standard_error": 0.01}
            tasks = {bed.primary.name: one_task}
            outcomes[c] = Outcome(value, details={**details, "tasks": tasks})
    about = {"unfit": {"ts2vec": "no series here"}}
    Stored(tmp_path / "out" / "digits.json", one, about).write(outcomes)
    table.write(tmp_path / "page.md", ["digits", "globe"], tmp_path / "out")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| clip | 0.905 ± 0.066 | 0.945 ± 0.066 |  |  | 200 | 12 | 1,024 |  |" in page
    assert (
        "| mae | 0.505 ± 0.066 | 0.545 ± 0.066 |  |  | 100 | 12 | 1,024 | stopped at 100 |" in page
    )
    assert "chance 0.100, simple features 0.600, best peer 0.700" in page
    assert "`ts2vec` does not fit: no series here" in page
    # A testbed without one finished cell has no table; the page says that it waits.
    assert "## globe" not in page
    assert "Not finished: `globe`." in page
