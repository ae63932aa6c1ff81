"""BioFusionNet's attention against its definition, its weighted loss, fields that join late, and a
run on a label of two columns."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from amodal import methods
from amodal.core import AmodalError, Batch, Column, Tokens
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
