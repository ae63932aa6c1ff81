"""198 women with breast cancer: 76 genes, four clinical findings, days until metastasis.

GSE7390 (NCBI GEO, public), as scikit-survival has it; fetched from PyPI.

**Split.** By hash of the key, 79 / 10 / 12 %: so few have an event that survival is
cross-validated over the training part and the measured one, as amodal's protocol does.

**Known leaks.** The 76 genes were chosen by others for predicting metastasis, on other women.
Validation and test share the training women in that cross-validation.
"""

from __future__ import annotations

from testbeds.peers.times import cox, elastic_net, forest
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="gse7390",
    title="Breast cancer by genes and findings: metastasis",
    data="gse7390",
    fields=("genes", "clinical"),
    tasks=(
        Task("metastasis from all", "survival", "concordance", "time,event"),
        Task("metastasis from genes", "survival", "concordance", "time,event", ("genes",)),
    ),
    steps=400,
    batch_size=32,
    size="tiny",
    card=__doc__,
    peers=(
        cox(),
        elastic_net(),
        forest(),
    ),
    family="survival_small",
)
