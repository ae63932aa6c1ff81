"""Area under the ROC curve."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from amodal.stats.auroc import auroc


def test_it_is_scikit_learns_with_ties_too():
    rng = np.random.default_rng(0)
    for score in (rng.normal(size=60), rng.integers(0, 4, 60)):
        wanted = rng.random(60) < 0.3
        assert auroc(score, wanted) == pytest.approx(roc_auc_score(wanted, score))
    with pytest.raises(ValueError, match="both|wanted"):
        auroc([1.0, 2.0], [True, True])
