"""Late fusion with predictions, against a loop over rows and fields."""

import torch

from amodal.core import Column, Embeddings
from amodal.nn.fusion.fill_missing import FilledFusion

FIELDS, B, D, P = ("a", "b", "c"), 9, 4, 6


def case():
    g = torch.Generator().manual_seed(0)
    there = {s: torch.rand(B, generator=g) < 0.7 for s in FIELDS}
    there["a"][0] = there["b"][0] = there["c"][0] = False
    rows = {s: t.nonzero().squeeze(1) for s, t in there.items()}
    z = Embeddings(
        {s: Column(torch.randn(len(r), D, generator=g).double(), r) for s, r in rows.items()}, B
    )
    states = Embeddings(
        {s: Column(torch.randn(len(r), P, generator=g).double(), r) for s, r in rows.items()}, B
    )
    return there, z, states


def reference(fusion, present, z, states):
    found = {}
    for i in range(B):
        have = [s for s in FIELDS if present.get(s) is not None and present[s][i]]
        if not have:
            continue
        parts = []
        for s in FIELDS:
            if s in have:
                parts.append(z[s].values[z[s].rows.tolist().index(i)])
            else:
                guesses = [
                    fusion.predictors[f"{a}>{s}"](
                        states[a].values[states[a].rows.tolist().index(i)]
                    )
                    for a in have
                ]
                parts.append(sum(guesses) / len(guesses))
        found[i] = fusion.head(torch.cat(parts))
    return found


def test_a_missing_field_is_the_mean_of_the_predictions_of_the_present_ones():
    torch.manual_seed(0)
    fusion, (there, z, states) = FilledFusion(FIELDS, D, P, 5, 3).double(), case()
    fewer = dict(there) | {
        "a": there["a"] & (torch.arange(B) % 2 == 0)
    }  # hidden from some rows that have it
    for present in (there, fewer, {"a": there["a"], "c": there["c"]}):
        seen = Embeddings({s: states[s] for s in present}, B)
        predicted = fusion(Embeddings({s: z[s] for s in present}, B), fusion.predict(seen), present)
        want = reference(fusion, present, z, states)
        assert predicted.rows.tolist() == sorted(want)
        torch.testing.assert_close(
            predicted.values, torch.stack([want[i] for i in sorted(want)]), rtol=1e-9, atol=1e-12
        )


def test_complete_rows_need_no_prediction():
    torch.manual_seed(0)
    fusion, (_, z, states) = FilledFusion(FIELDS, D, P, 5, 3).double(), case()
    rows, vectors = z.complete(FIELDS)
    present = {s: torch.isin(torch.arange(B), rows) for s in FIELDS}
    predicted = fusion(z, fusion.predict(states), present)
    torch.testing.assert_close(
        predicted.values, fusion.head(torch.cat(vectors, 1)), rtol=1e-9, atol=1e-12
    )
