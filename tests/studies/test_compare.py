"""`amodal.compare` from data to a run, and what it says."""

import json
import math
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import amodal
from amodal.cli import main
from amodal.core import AmodalError
from amodal.core.file_lock import locked
from amodal.data import Label
from amodal.data import open as open_data
from amodal.diagnose.label_free import eigenvalue_decay, lidar
from amodal.studies import Candidate, Cell, Outcome, Study
from amodal.studies.compare import WINNER_LOCK, _locked, seconds_of
from amodal.studies.comparison import JOINED, RESULT, Comparison, Entry, entries_of
from amodal.studies.final_test import REPORT, RUN
from amodal.studies.fitting import MIN_STEPS, Fit, chosen, cost, every_method
from amodal.studies.planning import PLAN, Options, _write_first, candidates_of
from amodal.studies.task import task_of


@pytest.fixture(scope="module")
def comparison(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    options = dict(methods=["simclr", "clip", "mae"], seeds=1, steps=8, budget="1h")
    return amodal.compare(digits, "digit", out=out, progress=False, **options), out, options


def test_candidates_stand_beside_yardsticks_and_the_winner_is_a_run(digits, comparison):
    found, out, _ = comparison
    assert found.finished and {e.name for e in found.candidates} == {"simclr", "mae"}
    assert "field" in found.left_out["clip"], "clip needs two fields, and says so"
    kinds = {e.name: e.kind for e in found.entries}
    assert kinds["simple features"] == kinds["boosted trees on simple features"] == "simple"
    assert kinds["untrained encoder"] == "untrained" and kinds["chance"] == "chance"
    done = [e for e in found.candidates if e.state == "done"]
    assert [e.steps for e in done] == [8] and found.winner == done[0]
    stopped = next(e for e in found.candidates if e.state != "done")
    assert stopped.state == "stopped at 2"
    for entry in found.candidates:
        assert entry.value >= entry.alone and entry.half > 0 and entry.seconds > 0
    model = amodal.load(out / RUN)
    assert model.config["recipe"]["steps"] == 8 and model.config["method"] == found.winner.name
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    # few test records, and yet none of the validation part, by which the winner was chosen
    assert report["about"]["parts"] == "train; test"
    choice = found.choice
    protocol = choice.protocol or "linear"
    column = {"simple": "simple"}.get(
        choice.kind, "joined" if choice.features != "alone" else "value"
    )
    (row,) = [
        row
        for result in report["results"]
        if result["protocol"] == protocol
        for row in result["rows"]
        if row["metric"] == "balanced accuracy" and row["source"] == "zer"
    ]
    assert found.about["test"] == row[column]
    against = found.about["against"]
    assert {one["name"] for one in against} <= {
        "simple features",
        "boosted trees on simple features",
    }
    assert len(against) == 1 and against[0]["name"] != choice.name
    assert against[0]["difference"] == pytest.approx(found.about["test"] - against[0]["value"])
    low, high = against[0]["interval"]
    assert low <= against[0]["difference"] <= high
    assert report["about"]["train"] == 120 and row["n"] == 120, "the test part alone"
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_of_an_older_version(digits, comparison, tmp_path):
    _, out, options = comparison
    old = tmp_path / "old"
    shutil.copytree(out, old)
    plan = json.loads((old / PLAN).read_text(encoding="utf-8"))
    del plan["options"]["metric"]
    (old / PLAN).write_text(json.dumps(plan), encoding="utf-8")
    found = amodal.compare(digits, "digit", out=old, progress=False, **options)
    assert "test" in found.about, "what was finished is read"
    with pytest.raises(AmodalError, match="another metric"):
        amodal.compare(digits, "digit", out=old, metric="accuracy", progress=False, **options)
    (old / RESULT).unlink()
    with pytest.raises(AmodalError, match="an older version began"):
        amodal.compare(digits, "digit", out=old, progress=False, **options)


def test_a_finished_one_is_read_and_another_is_not_mixed_in(digits, comparison, monkeypatch):
    found, out, options = comparison
    monkeypatch.setattr("amodal.studies.compare.work", None)
    second = amodal.compare(digits, "digit", out=out, progress=False, **options)
    assert (
        second.rows() == json.loads(json.dumps(found.rows())) or second.sentence == found.sentence
    )
    assert Comparison.load(out).entries == second.entries
    with pytest.raises(AmodalError, match="another steps"):
        amodal.compare(digits, "digit", out=out, progress=False, **options | {"steps": 12})
    with pytest.raises(AmodalError, match="another data"):
        amodal.compare(digits.subset(range(200)), "digit", out=out, progress=False, **options)
    (out / "broken").mkdir()
    (out / "broken" / PLAN).write_text("{", encoding="utf-8")
    with pytest.raises(AmodalError, match="damaged"):
        amodal.compare(digits, "digit", out=out / "broken", progress=False, **options)


def test_two_processes_share_one_study(tmp_path):
    words = "compare --data wine --methods simclr --seeds 2 --steps 4 --budget 1h --out"
    command = [sys.executable, "-m", "amodal", *words.split(), str(tmp_path / "out")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in "ab"]
    ends = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    found = Comparison.load(tmp_path / "out")
    assert found.finished and len(found.candidates) == 1
    assert b"Next: amodal embed" in ends[0][0] and b"Next: amodal embed" in ends[1][0]


def test_who_comes_last_waits_for_the_winner_and_keeps_its_test(digits, comparison, tmp_path):
    """Both have done their last trial, and both would train the winner into one run folder."""
    out, options = tmp_path / "out", comparison[2]
    shutil.copytree(comparison[1], out)
    first = Comparison.load(out)
    before = {p.name: p.stat().st_mtime_ns for p in (out / RUN).iterdir()}
    entered = threading.Event()
    ends = []

    def second():
        entered.set()
        ends.append(amodal.compare(digits, "digit", out=out, progress=False, **options))

    (out / REPORT).rename(out / "aside")  # the test is not done, as far as the second can see
    with locked(out / WINNER_LOCK):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        thread.join(3)
        assert thread.is_alive() and not ends
        (out / "aside").rename(out / REPORT)
        first.save(out)
    thread.join(60)
    assert ends[0].about["test"] == first.about["test"]
    assert {p.name: p.stat().st_mtime_ns for p in (out / RUN).iterdir()} == before
    assert Comparison.load(out).about == first.about


def test_the_first_plan_wins(tmp_path):
    for number in (1, 2):
        _write_first(tmp_path / "new" / PLAN, {"number": number})
    assert json.loads((tmp_path / "new" / PLAN).read_text(encoding="utf-8")) == {"number": 1}
    assert [p.name for p in (tmp_path / "new").iterdir()] == [PLAN]


def test_pairs_are_compared_by_retrieval_and_nothing_at_all_by_rank(tmp_path):
    pairs = open_data("digits").select(["zer", "fou"])
    pairs = pairs.subset(np.concatenate([pairs.split(p)[:60] for p in ("train", "valid", "test")]))
    options = dict(seeds=1, steps=4, budget="1h", progress=False)
    found = amodal.compare(
        pairs, task="retrieval", methods=["clip", "siglip"], out=tmp_path / "a", **options
    )
    assert {e.kind for e in found.entries} == {"candidate", "simple", "untrained", "chance"}
    assert found.about["test"] > 0 and found.title == "recall@10 between fields"
    free = amodal.compare(
        pairs.select(["zer"]),
        task="label-free",
        methods=["simclr", "mae"],
        out=tmp_path / "b",
        **options,
    )
    assert {"RankMe", "alpha", "LiDAR"} == set(free.winner.label_free)
    assert free.winner.value == pytest.approx(free.winner.label_free["RankMe"])
    assert "test" not in free.about and free.choice is free.winner


def records(n=200, **columns):
    rng = np.random.default_rng(0)
    curves = list(rng.normal(size=(n, 6)).astype(np.float32))
    data = amodal.open({"curve": curves, **columns})
    data.labels.update({name: Label() for name in columns})
    return data


def numbers():
    data = records(kind=[i * 0.37 for i in range(200)])
    data.labels["kind"] = Label("number")
    return data


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (records(12), {}, "in its train part, and a comparison needs 20"),
        (records(kind=["a"] * 200), {"label": "kind"}, "so there is nothing to predict"),
        (records(kind=["a", "b"] * 100), {"label": "kin"}, "kind"),
        (records(kind=["a", "b"] * 100), {"label": "kind", "task": "retrieval"}, "reads no label"),
        (records(), {"task": "retreival"}, "retrieval"),
        (records(), {"task": "retrieval"}, "no two of them"),
        (records(), {"task": "linear"}, "has no label"),
        (records(kind=["a", "b"] * 100), {"label": "kind", "metric": "acuracy"}, "accuracy"),
        (records(kind=["a", "b"] * 100), {"task": "knn", "metric": "AUROC"}, "by knn"),
        (records(), {"metric": "accuracy"}, "a metric is of a label"),
        (numbers(), {"label": "kind", "metric": "accuracy"}, "R2, Spearman"),
        (records(kind=[None] * 200), {"label": "kind"}, "kind"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(data, options, says):
    with pytest.raises(AmodalError, match=says):
        task_of(data, **options)


def test_a_task_is_that_of_the_data():
    data = records(kind=["a", "b"] * 100)
    assert task_of(data).questions[0].row_metric == "balanced accuracy"
    assert task_of(data).questions[0].options == {"class_weight": "balanced"}
    assert task_of(data, metric="accuracy").questions[0].row_metric == "accuracy"
    assert task_of(data, metric="accuracy").questions[0].options == {}
    assert task_of(data, "kind", "knn").questions[0].protocol == "knn"
    assert task_of(records()).kind == "label-free"
    pairs = amodal.open(
        {"a": [np.ones((4, 2), np.float32)] * 200, "b": [np.ones((4, 2), np.float32)] * 200}
    )
    assert [q.name for q in task_of(pairs).questions] == ["b by a", "a by b"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), (30, 30)])
def test_a_budget_is_a_time(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3m", "0", "nan", "inf", "1e99h", "3 weeks"])
def test_another_budget_is_refused(text):
    with pytest.raises(AmodalError, match="budget"):
        seconds_of(text)


def fits(*steps):
    return [Fit(Candidate("simclr", name=f"c{i}"), step) for i, step in enumerate(steps)]


def test_a_budget_pays_for_steps_then_seeds_then_candidates_go():
    def choose(seconds, **options):
        return chosen(
            fits(0.1, 0.1, 0.1, 0.1), 1000, 50, seconds, **{"seeds": 2, "measuring": 1.0} | options
        )

    rich = choose(10_000)
    assert len(rich.study.candidates) == 4 and len(rich.study.seeds) == 2
    assert rich.study.steps_of(Cell("c0", "", 0, 2)) == 4000, "200 epochs, whatever the budget"
    middle = choose(200)
    assert len(middle.study.seeds) == 2 and middle.seconds <= 200
    assert middle.study.first_steps[""] < rich.study.first_steps[""]
    fewer = choose(60)
    assert len(fewer.study.seeds) == 1 and len(fewer.study.candidates) == 4
    least = choose(30)
    assert len(least.study.candidates) < 4 and least.study.first_steps[""] >= MIN_STEPS
    assert set(least.left_out) == {f"c{i}" for i in range(len(least.study.candidates), 4)}
    with pytest.raises(AmodalError, match="give a larger --budget"):
        choose(2)
    fixed = choose(2, steps=40)
    assert fixed.study.first_steps[""] == 10 and len(fixed.study.seeds) == 2


def test_the_cost_is_that_of_all_rungs():
    some = fits(0.5, 0.5, 0.5)
    by_hand = 2 * (3 * (1 + 5) + 2 * (1 + 10) + 1 * (1 + 20))
    assert cost(some, 2, 10, 1.0) == by_hand


def test_a_slow_candidate_is_left_out_with_its_reason():
    found = chosen(fits(0.1, 0.1, 5.0), 1000, 50, 10_000, seeds=1, measuring=0.0)
    assert [c.name for c in found.study.candidates] == ["c0", "c1"]
    assert "50 times" in found.left_out["c2"]


def test_methods_that_need_a_label_are_no_candidates():
    names = every_method()
    assert names[:3] == ["clip", "siglip", "simclr"] and "finetune" not in names
    assert len(names) == len(set(names)) > 60


def outcomes_of(**values):
    return {
        Cell(name, "", seed, 0): Outcome(
            value, details={"tasks": {"q": {"value": alone, "standard_error": 0.01}}, "steps": 5}
        )
        for name, (alone, *scores) in values.items()
        for seed, value in enumerate(scores)
    }


def lines(yardstick, **values):
    study = Study(tuple(Candidate("mae", name=n) for n in values), (0, 1), 5, rungs=1)
    simple = Entry("simple features", "simple", yardstick, 0.02)
    return Comparison("t", entries_of(study, outcomes_of(**values), [simple]))


def test_the_sentence_says_what_to_take():
    ahead = lines(0.5, a=(0.6, 0.8, 0.82), b=(0.6, 0.6, 0.6))
    assert ahead.sentence == ("take a with simple features (0.810): above simple features (0.500)")
    assert [e.name for e in ahead.entries] == ["a", "b", "simple features"]
    behind = lines(0.9, a=(0.6, 0.6, 0.62))
    assert behind.choice.kind == "simple"
    assert "take simple features (0.900): it is clearly better than everything" in behind.sentence
    level = lines(0.58, a=(0.6, 0.6, 0.6), b=(0.59, 0.59, 0.59))
    assert "not clearly above simple features" in level.sentence
    assert level.sentence.endswith("b is as good within the intervals")
    assert Comparison("t", [Entry("a", state="failed: it broke")]).sentence == (
        "every candidate failed"
    )


def test_intervals_are_over_seeds_and_over_records():
    (entry, _) = lines(0.1, a=(0.5, 0.5, 0.7)).entries
    assert entry.value == pytest.approx(0.6)
    assert entry.half == pytest.approx(12.706 * 0.1, rel=1e-3), "Student, of two seeds"
    (entry, _) = lines(0.1, a=(0.5, 0.5, 0.5)).entries
    assert entry.half == pytest.approx(1.96 * 0.01)


def test_a_comparison_survives_its_file(tmp_path):
    found = lines(0.5, a=(0.6, 0.8, 0.82))
    found.entries.append(Entry("broken", state="failed: no"))
    found.save(tmp_path)
    second = Comparison.load(tmp_path)
    assert second.sentence == found.sentence and len(second.entries) == 3
    assert math.isnan(second.entries[-1].half)
    (tmp_path / RESULT).write_text("[]", encoding="utf-8")
    with pytest.raises(AmodalError, match="no result of `amodal compare`"):
        Comparison.load(tmp_path)


def test_the_command_line_says_what_is_wrong_and_keeps_nothing(tmp_path, capsys):
    for words, says in (
        (["--methods", "simclrr"], "simclr"),
        (["--encoder", "phenolss=convnet"], "phenols"),
        (["--size", "nan"], "nano"),
        (["--budget", "x"], "a budget is a time"),
        (["--seeds", "0"], "at least 1"),
        (["--fields", "phenolss"], "phenols"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compare", "--data", "wine", "--out", str(tmp_path / "out"), *words])
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_alpha_is_the_exponent_of_the_eigenvalues():
    generator = torch.Generator().manual_seed(0)
    rank = torch.arange(1, 51, dtype=torch.float64)
    for alpha in (0.5, 1.0, 2.0):
        z = torch.randn(4000, 50, generator=generator, dtype=torch.float64)
        z = torch.linalg.qr(z - z.mean(0))[0] * rank ** (-alpha / 2)
        assert eigenvalue_decay(z) == pytest.approx(alpha, abs=0.01)
    assert math.isnan(eigenvalue_decay(torch.zeros(1, 4)))


def test_lidar_counts_the_directions_in_which_records_differ():
    generator = torch.Generator().manual_seed(0)
    for rank in (1, 3, 8):
        centres = torch.zeros(400, 1, 16, dtype=torch.float64)
        centres[:, 0, :rank] = torch.randn(400, rank, generator=generator, dtype=torch.float64)
        z = centres + 1e-3 * torch.randn(400, 6, 16, generator=generator, dtype=torch.float64)
        assert lidar(z) == pytest.approx(rank, rel=0.03)
    with pytest.raises(ValueError, match="two views"):
        lidar(torch.zeros(4, 1, 3))


def test_each_method_has_each_encoder(digits):
    asked = Options(
        "digit", "auto", ("simclr", "mae"), ("zer=gru",), ("zer",), {}, "nano", 1, 4, False
    )
    found = candidates_of(asked, digits)
    assert [c.name for c in found] == ["simclr", "mae", "simclr gru", "mae gru"]
    assert found[2].backbones == {"zer": "gru"}


def test_a_folder_that_cannot_be_locked_is_an_error_for_people(tmp_path):
    (tmp_path / "lock").mkdir()  # where the file should be
    with pytest.raises(AmodalError, match="cannot be written .*another --out"):
        with _locked(tmp_path / "lock"):
            raise AssertionError("it was not locked")
    with pytest.raises(OSError, match="of the block"), _locked(tmp_path / "other"):
        raise OSError("of the block")


def test_a_budget_that_pays_for_no_training_still_says_what_to_take(tmp_path, capsys):
    rng = np.random.default_rng(0)
    kinds = rng.integers(3, size=300)
    waves = [*(rng.normal(size=(300, 40, 2)) + kinds[:, None, None]).astype(np.float32)]
    made = amodal.open({"wave": waves, "kind": [f"k{k}" for k in kinds]})
    made.labels["kind"] = Label()
    made, out = made.select(["wave"]), tmp_path / "out"
    options = dict(out=out, methods=["simclr", "mae"], frozen="none", progress=False)
    found = amodal.compare(made, "kind", budget=1e-3, **options)
    assert found.candidates == [] and found.finished and found.winner is None
    assert found.choice.kind == "simple" and found.choice.value > 0.6
    assert found.sentence.startswith(f"take {found.choice.name} (")
    assert "pays for no training" in found.sentence
    assert "give a larger --budget" in found.left_out["training"]
    assert 0.6 < found.about["test"] <= 1
    assert Comparison.load(out).about["test"] == found.about["test"]
    # a larger budget goes on to training, in the same folder
    later = amodal.compare(made, "kind", budget="1h", steps=4, seeds=1, **options)
    assert {e.name for e in later.candidates} == {"simclr", "mae"} and (out / RUN).is_dir()


def test_what_is_chosen_for_survival_is_measured_on_the_test_part(tmp_path, monkeypatch):
    """Reports of survival have no column for both side by side, which `compare` may choose."""
    rng = np.random.default_rng(0)
    risk = rng.normal(size=400)
    cells = [*np.stack([risk, rng.normal(size=400)], 1).astype(np.float32)]
    time, event = rng.exponential(np.exp(-risk)), rng.integers(2, size=400).astype(float)
    made = amodal.open({"blood": cells, "time": time, "event": event}).select(["blood"])
    made.labels.update({"time": Label("number"), "event": Label("number")})
    joined = property(lambda self: replace(self.winner, features=JOINED))
    monkeypatch.setattr(Comparison, "choice", joined)
    found = amodal.compare(
        made,
        "time,event",
        out=tmp_path / "out",
        methods=["simclr"],
        seeds=1,
        steps=2,
        budget="1h",
        frozen="none",
        progress=False,
    )
    assert found.title == "time,event (concordance, survival)"
    assert 0.6 < found.about["test"] < 0.95
