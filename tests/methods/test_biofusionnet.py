"""BioFusionNet's attention against its definition, its weighted loss, fields that join late, and a
run on a label of two columns."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import amodal
from amodal import methods
from amodal.core import AmodalError, Batch, Column, Ragged, Tokens
from amodal.data.schema import Label
from amodal.data.sets.shared.writing import describe, field, records
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.co_attention import CoDualAttention
from amodal.nn.generation.autoencoder import Autoencoder
from amodal.nn.heads.supervised import Target
from amodal.train.pretrain import pretrain
from tests.methods.bench import batch, fields, method


def bag(lengths, name, width=6, seed=0):
    lengths = torch.tensor(lengths)
    x = torch.randn(int(lengths.sum()), width, generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(len(lengths))
    return Tokens.of(x, rows, lengths, torch.zeros(len(x), 3), name, len(lengths))


def reads(module, queries, keys):
    """One head, scaled; without a key, what the output map makes of zero."""
    q, (k, v) = module.query(queries), module.key_value(keys).chunk(2, dim=1)
    found = []
    for one in q:
        weight = torch.tensor([math.exp(float(one @ other) / math.sqrt(len(one))) for other in k])
        mean = sum((w * value for w, value in zip(weight, v)), torch.zeros_like(one))
        found.append(mean / weight.sum() if len(k) else mean)
    return module.out(torch.stack(found)) if len(q) else queries


def test_fields_read_each_other_twice_and_then_themselves():
    torch.manual_seed(0)
    module = CoDualAttention(["a", "b", "c"], 6)
    bags = {
        s: bag(n, s, seed=i)
        for i, (s, n) in enumerate({"a": [2, 3, 0], "b": [1, 0, 0], "c": [4, 2, 3]}.items())
    }
    with torch.no_grad():
        found = module(bags)
        for row in range(3):
            own = {s: b.x[b.row == row] for s, b in bags.items()}
            co, dual = {}, {}
            for s in own:
                co[s] = reads(module.first[s], own[s], torch.cat([own[o] for o in own if o != s]))
            for s in own:
                dual[s] = reads(module.second[s], co[s], torch.cat([co[o] for o in own if o != s]))
            for s in own:
                expected = reads(module.back[s], dual[s], own[s])
                torch.testing.assert_close(
                    found[s].x[found[s].row == row], expected, rtol=1e-5, atol=1e-6
                )


def test_a_field_alone_still_predicts_what_it_holds():
    module = CoDualAttention(["a"], 6)
    one, other = (module({"a": bag([3, 2], "a", seed=seed)})["a"].x for seed in (1, 2))
    assert not torch.allclose(one, other, atol=1e-3)


def test_the_autoencoder_loses_its_error_and_its_distance_from_the_prior():
    torch.manual_seed(0)
    module, x = Autoencoder(6, 8, 3), torch.randn(5, 6)
    noise = torch.randn(5, 3)
    means, loss = module(x, noise)
    inside = module.in_proj(x)
    own = Normal(module.mean(inside), (module.log_variance(inside) / 2).exp())
    prior = kl_divergence(own, Normal(0.0, 1.0)).sum(1)
    decoded = module.out_proj(own.mean + own.stddev * noise)
    # of a Gaussian of variance 1/2 around what is decoded, but for the constant
    error = -Normal(decoded, math.sqrt(0.5)).log_prob(x).sum(1) - 6 * math.log(math.pi) / 2
    torch.testing.assert_close(loss, (error + prior) / 6)
    torch.testing.assert_close(means, own.mean)


SURVIVAL = (Target("days,dead", "survival", event=1),)


def with_times(whole: Batch) -> Batch:
    rows = torch.arange(whole.size)
    days, dead = (
        Column(torch.rand(whole.size) * 9, rows),
        Column(torch.arange(whole.size) % 2, rows),
    )
    return dataclasses.replace(whole, labels=whole.labels | {"days": days, "dead": dead})


def test_events_weigh_more_than_those_last_seen_alive():
    m = method("biofusionnet", targets=SURVIVAL, elbo=0.0, event_weight=3.0)
    assert m.vae is None
    whole = with_times(batch(m.views))
    features = m.features(whole)
    risk, rows = features.outputs.values.squeeze(1).tolist(), features.outputs.rows.tolist()
    time, dead = (whole.labels[n].values[rows].tolist() for n in ("days", "dead"))
    total = events = 0.0
    for i, event in enumerate(dead):
        if event:
            still = sum(
                (3.0 if dead[j] else 1.0) * math.exp(risk[j])
                for j in range(len(dead))
                if time[j] >= time[i]
            )
            total += 3.0 * (math.log(still) - risk[i])
            events += 3.0
    assert m.losses(features)["predict/days,dead"].item() == pytest.approx(total / events, rel=1e-5)


def test_what_joins_late_is_not_read_by_the_others():
    m = method("biofusionnet", targets=SURVIVAL, late="facts").eval()
    assert set(m.fusion.fields) == {"picture", "words", "signal"} and set(
        m.fusion.attention.first
    ) == {
        "picture",
        "words",
        "signal",
    }
    whole = with_times(batch(m.views, patchy=False))
    other = whole.columns | {"facts": batch(m.views, patchy=False, seed=5)["facts"]}
    seen = []
    m.fusion.layers[2].register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        before, after = (
            m.head.predictions(m.predict(b))["days,dead"]
            for b in (whole, dataclasses.replace(whole, columns=other))
        )
    assert torch.equal(*seen) and not torch.allclose(before, after)


def test_any_fields_will_do_when_it_counts():
    m = method("biofusionnet", targets=SURVIVAL).eval()
    whole = batch(m.views)
    assert len(m.head.predictions(m.predict(whole.only("picture", "facts")))["days,dead"]) == 8
    assert len(m.head.predictions(m.predict(whole.only("words")))["days,dead"]) == len(
        whole["words"]
    )


def test_fields_that_there_are_not():
    for option in ("late", "patches"):
        with pytest.raises(AmodalError, match="Did you mean facts"):
            methods.build(
                "biofusionnet", Encoder(fields(), size="nano"), targets=SURVIVAL, **{option: "fcts"}
            )


def described(**options):
    return method("biofusionnet", sources=("signal", "facts"), targets=SURVIVAL, **options)


def test_the_autoencoder_of_descriptors_learns_first_and_is_then_fixed():
    m = described(patches="signal", pretrain=0.2, late="facts")
    inside = "encoder.tokenizers.signal.body.autoencoder."
    learns = lambda: {n for n, p in m.named_parameters() if p.requires_grad}  # noqa: E731
    assert m.stages == (0.2, 1.0) and m.lr_multipliers == {inside: 10.0} and m.vae is None
    every = {n for n, _ in m.named_parameters()} - {"encoder.field_token.signal"}
    first = {n for n in every if n.startswith(inside)}
    assert learns() == first
    whole = with_times(batch(m.views, sources=("signal", "facts")))
    features = m.features(whole)
    assert len(features.outputs) == 0 and set(m.losses(features)) == {"elbo"}
    m.on_stage_start(1)
    assert learns() == every - first
    assert set(m.losses(m.features(whole))) == {"predict/days,dead"}
    m.on_stage_start(0)
    assert learns() == first


def test_without_a_list_of_descriptors_none_is_lost():
    m = described(patches="signal", pretrain=0.2)
    none = with_times(batch(m.views, sources=("signal", "facts"), absent=("signal",)))
    loss = m.losses(m.features(none))["elbo"]
    assert loss.item() == 0 and loss.requires_grad


def test_missing_numbers_of_descriptors_count_as_their_mean():
    m = described(patches="signal", pretrain=0.2)
    reader = m.encoder.tokenizers["signal"]
    mean = torch.tensor(m.encoder.fields["signal"].mean)
    x = torch.randn(3, 2)
    x[1, 0] = torch.nan
    filled = torch.where(x.isnan(), mean, x)
    lists = [Ragged(value, torch.tensor([3])) for value in (x, filled)]
    a, b = (reader(Column(v, torch.tensor([0])), "signal", 1).x for v in lists)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrain": 1.0, "patches": "signal"}, "less than 1, not 1.0"),
        ({"pretrain": -0.5, "patches": "signal"}, "not -0.5"),
        ({"pretrain": 0.5}, "name the field of descriptors in --method.patches"),
        ({"pretrain": 0.5, "patches": "signal", "elbo": 0.0}, "leave --method.elbo above 0"),
        ({"pretrain": 0.5, "patches": "facts"}, "this field is table"),
    ],
)
def test_what_cannot_learn_first(options, message):
    with pytest.raises(AmodalError, match=message):
        described(**options)


def test_descriptors_are_read_one_by_one_and_without_a_backbone():
    every = fields(("signal", "facts"))
    options = {"targets": SURVIVAL, "patches": "signal", "pretrain": 0.5}
    joined = every | {"signal": dataclasses.replace(every["signal"], patch=4)}
    with pytest.raises(AmodalError, match="joins 4 descriptors; set patch = 1"):
        methods.build("biofusionnet", Encoder(joined, size="nano"), **options)
    with pytest.raises(AmodalError, match="backbone: leave --backbone signal"):
        described(backbones={"signal": "gru"}, patches="signal", pretrain=0.5)


def test_slides_genes_and_clinical_variables_to_curves_of_risk(tmp_path):
    g = torch.Generator().manual_seed(0)
    n, grade = 80, torch.rand(80, generator=g)
    slides = tmp_path / "slides"
    slides.mkdir()
    for i in range(n):
        patches = torch.randn(int(torch.randint(3, 9, (1,), generator=g)), 6, generator=g)
        np.save(slides / f"{i}.npy", (patches + grade[i]).numpy())
    columns = {
        "key": [f"k{i}" for i in range(n)],
        "slide": [f"slides/{i}.npy" for i in range(n)],
        "genes": torch.randn(n, 3, generator=g).tolist(),
        "clinical": torch.randn(n, 2, generator=g).tolist(),
        "months": (30 * (1.5 - grade)).tolist(),
        "died": ["1" if i % 2 else "0" for i in range(n)],
    }
    records(tmp_path, columns)
    kinds = {
        "slide": field("series", channels=list("abcdef"), patch=1),
        "genes": field("table", columns=["a", "b", "c"]),
        "clinical": field("table", columns=["d", "e"]),
    }
    describe(tmp_path, kinds, {"months": Label("number"), "died": "category"})
    options = {"label": "months,died", "hidden": 32, "latent": 4, "depth": 1}
    options |= {"patches": "slide", "pretrain": 0.5, "late": "clinical"}
    some = dict(size="nano", steps=6, batch=16, progress=False, options=options)
    model = amodal.load(pretrain("biofusionnet", tmp_path, tmp_path / "run", **some))
    risks = model.predict(tmp_path)
    assert len(risks) == n and np.isfinite(np.array(risks["log hazard of died"])).all()
    report = model.evaluate(tmp_path, protocols=["head"], label="months,died", untrained=False)
    rows = {row["metric"]: row for row in report["head"].rows}
    assert set(rows) == {"concordance", "AUC over time"}
    report.save(tmp_path / "risks.json")
    assert (tmp_path / "risks.head.png").exists()


def test_a_run_reads_times_and_events_from_the_data(tmp_path):
    g = torch.Generator().manual_seed(0)
    y = torch.randn(60, 2, generator=g).tolist()
    columns = {
        "key": [f"k{i}" for i in range(60)],
        "x": torch.randn(60, 3, generator=g).tolist(),
        "y": [v if i % 3 else None for i, v in enumerate(y)],
        "time": [float(t) for t in torch.rand(60, generator=g) * 100],
        "event": ["dead" if i % 2 else "alive" for i in range(60)],
    }
    records(tmp_path, columns)
    tables = {"x": field("table", columns=["a", "b", "c"]), "y": field("table", columns=["d", "e"])}
    describe(tmp_path, tables, {"time": Label("number"), "event": "category"})
    options = {"label": "time,event", "hidden": 32}
    some = dict(size="nano", steps=2, batch=16, progress=False, options=options)
    out = pretrain("biofusionnet", tmp_path, tmp_path / "run", **some)
    assert (out / "model.safetensors").exists()
