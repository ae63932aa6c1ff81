"""92 people with adrenocortical carcinoma, each seen by up to five assays, and how long they lived.

TCGA (open access), in a Debian package. 34 people died; many lack assays.

**Split.** By hash of the key, 80 / 14 / 4 %: so few people have an event that survival is
cross-validated over the training part and the measured one, as amodal's protocol does.

**Known leaks.** None between people. Validation and test share the training people in that
cross-validation, so a choice made on validation is no blind one on test.
"""

from __future__ import annotations

from testbeds.peers.times import elastic_net, forest
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="miniacc",
    title="Carcinoma by five assays: survival",
    data="miniacc",
    fields=("genes", "copy_number", "proteins", "mutations", "mirna"),
    tasks=(
        Task("survival from all assays", "survival", "concordance", "time,event"),
        Task("survival from genes", "survival", "concordance", "time,event", ("genes",)),
    ),
    steps=400,
    batch_size=32,
    size="tiny",
    card=__doc__,
    peers=(
        elastic_net(),
        forest(),
    ),
    family="survival_small",
)
