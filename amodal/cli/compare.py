"""The verb that says which method to take: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from amodal.cli.options import listed, pairs
from amodal.cli.shared import Data, command, show


def compare(
    data: Data,
    out: Annotated[
        Path, arg(help="the folder of the comparison; one that is there is continued")
    ] = Path("compare"),
    label: Annotated[
        str | None,
        arg(
            metavar="LABEL",
            help="what is to be predicted from the fields; for a survival time TIME,EVENT",
        ),
    ] = None,
    task: Annotated[
        str, arg(help="linear or knn (how a label is predicted), retrieval or label-free; or auto")
    ] = "auto",
    metric: Annotated[
        str,
        arg(
            help="of a label: balanced accuracy, accuracy, macro F1 or AUROC; Spearman or R2 of "
            "numbers"
        ),
    ] = "auto",
    budget: Annotated[str, arg(metavar="TIME", help="such as 90s, 30m or 2h")] = "30m",
    methods: Annotated[
        str, arg(metavar="A,B", help="by default all that learn from such fields")
    ] = "auto",
    encoder: Annotated[
        tuple[str, ...],
        arg(
            metavar="FIELD=SPEC",
            help="compare each method with this encoder from scratch too, such as image=convnet",
        ),
    ] = (),
    fields: Annotated[str, arg(metavar="A,B", help="fields to use; by default all")] = "",
    backbone: Annotated[
        tuple[str, ...], arg(metavar="FIELD=SPEC", help="pretrained, and frozen in all candidates")
    ] = (),
    size: Annotated[
        str, arg(help="of the encoder: nano, tiny, small, base, large or huge")
    ] = "nano",
    seeds: Annotated[int, arg(help="of each candidate, if the budget pays for them")] = 2,
    steps: Annotated[
        int | None, arg(help="of the last round; by default what the budget pays for")
    ] = None,
    storage: Annotated[
        str, arg(metavar="URL", help="a database, for processes on many machines")
    ] = "",
    label_free: Annotated[
        bool, arg(help="also measure what needs no labels: RankMe, alpha, LiDAR")
    ] = False,
    frozen: Annotated[
        str,
        arg(
            metavar="auto|none|FIELD=SPEC,…",
            help="pretrained encoders that are measured as they are; auto: those in packages "
            "whose weights are here",
        ),
    ] = "auto",
) -> None:
    """Compare methods on your data, next to simple features, and train the best one.

    All candidates train a little, the better half longer, and again. The validation part chooses,
    the winner is measured once on the test part. Start it in several terminals to go faster.
    """
    from amodal.studies.compare import compare as run
    from amodal.studies.final_test import REPORT, RUN
    from amodal.studies.frozen_encoders import command_of

    found = run(
        data,
        label,
        out=out,
        task=task,
        metric=metric,
        budget=budget,
        methods=methods,
        encoders=encoder,
        fields=listed(fields) or (),
        backbones=pairs(backbone),
        size=size,
        seeds=seeds,
        steps=steps,
        storage=storage,
        label_free=label_free,
        frozen=frozen,
    )
    show(found.table())
    if not found.finished:
        print(f"the time is up; the same command goes on (results so far: {out})")
        return
    if found.on_test:
        print(f"What was chosen has {found.on_test}.")
    choice, specs = found.choice, found.about.get("frozen", {})
    if not found.candidates:
        print("nothing was trained; a larger --budget in the same command goes on to that")
        return
    if choice is not None and choice.kind == "frozen":
        print(f"Next: {command_of(specs, str(data), str(found.about['label']), fields)}")
        print(f"The best that was trained here is {out / RUN}.")
        return
    if found.about.get("summary"):
        print(found.about["summary"])
    print(f"wrote {out / RUN}, {out / REPORT}. Next: {command('embed', out / RUN, '--data', data)}")
