"""Labels given in one sense, used in another: a probe trained on the vectors of sense a is tested on those of sense b.

In the aligned space, for every pair of senses; on the diagonal the probe stays in its sense. Each sense's unit vectors are centred at
the mean of that sense's training vectors, which takes no labels and takes away the constant gap between senses (Liang et al. 2022,
arXiv:2203.02053), which says nothing about what has been learnt.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column
from amodal.evaluate.labels import NotApplicable, label_spec, measure
from amodal.evaluate.protocols.knn import neighbours
from amodal.evaluate.protocols.linear import fit as fit_linear
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded

PROBES = {"knn": neighbours, "linear": fit_linear}


def transfer(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    centre: bool = True,
) -> Result:
    """source: the sense the labels were given in; target: the sense they are used in. few, draws, seed: see `measure`."""
    if len(test.sources) < 2:
        raise NotApplicable(f"transfer between senses needs two of them, and there is only {', '.join(test.sources)}")
    y_train, y_test = train.label(label), test.label(label)
    means = {
        s: normalize(train.aligned[s].values.float(), dim=1).mean(0) for s in train.sources if len(train.aligned[s])
    }
    learnt = {s: _centred(train.aligned[s], means[s], centre) for s in means}
    tested = {s: _centred(test.aligned[s], means[s], centre) for s in means}
    rows = []
    for probe, fit in PROBES.items():
        for source, column in learnt.items():
            found = measure(fit, column, y_train, tested, y_test, few=few, draws=draws, seed=seed)
            rows += [
                {"source": source, "target": target, "probe": probe, **row}
                for target, many in found.items()
                for row in many
            ]
    spec = label_spec(label, y_train, few, draws, seed) | {"centre": centre, "space": "aligned", "probes": list(PROBES)}
    return Result("transfer", spec | {"train": len(train), "test": len(test)}, rows)


def _centred(column: Column, mean_D: Tensor, centre: bool) -> Column:
    unit = normalize(column.values.float(), dim=1)
    return Column(unit - mean_D if centre else unit, column.rows)
