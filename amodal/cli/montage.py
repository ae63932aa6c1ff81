"""The verb that makes pictures of volumes: montage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from amodal.cli.options import listed
from amodal.cli.own_code import NONE, Code
from amodal.cli.shared import Data, Run, command


def montage(
    run: Run,
    data: Data,
    scans: Annotated[
        str,
        arg(
            metavar="COLUMN",
            help="with the path of each volume: .npy of (slices, height, width), a TIFF of many "
            "pages, or a folder of pictures",
        ),
    ],
    findings: Annotated[
        str,
        arg(
            metavar="A,B|FILE",
            help="what patches should show: with commas between, or a file with wordings of each "
            "finding, as for predict",
        ),
    ],
    out: Annotated[Path, arg(metavar="DIR", help="montages and a table, which --data takes")],
    normal: Annotated[
        tuple[str, ...], arg(metavar="TEXT", help="prompts without a finding; count against")
    ] = (),
    templates: Annotated[
        tuple[str, ...], arg(metavar="TEXT", help='sentences around findings, "a CT scan of {}"')
    ] = (),
    level: Annotated[
        float | None, arg(help="middle of the window of intensities (lungs: -600)")
    ] = None,
    width: Annotated[float | None, arg(help="of the window (lungs: 1500)")] = None,
    patch: Annotated[int, arg(help="side of a patch in pixels")] = 32,
    stride: Annotated[int, arg(help="of patches in pixels; 0: as wide as a patch")] = 0,
    keep: Annotated[int, arg(help="patches of a montage")] = 16,
    reduction: Annotated[Literal["max", "mean"], arg(help="over the prompts of a finding")] = "max",
    per_finding: Annotated[bool, arg(help="findings choose patches in turn")] = False,
    report: Annotated[str, arg(metavar="COLUMN", help="with the reports")] = "",
    sections: Annotated[
        str, arg(metavar="A,B", help="headings of reports whose text is taken; by default all")
    ] = "",
    about: Annotated[
        str, arg(metavar="A,B", help="words of which a sentence of a report has one")
    ] = "",
    field: Annotated[str | None, arg(help="of the run, with pictures; by default the only one")] = (
        None
    ),
    text_field: Annotated[str | None, arg(help="of the run, which reads prompts")] = None,
    code: Code = NONE,
) -> None:
    """Make one picture of each volume, of the patches of its slices that match findings in words.

    The folder has a montage and the sentences of the report of each record, to go on training with
    or to name classes of.
    """
    from amodal.curate.montage import PatchSelector
    from amodal.data import open as open_data
    from amodal.inference.class_prompts import read_classes, read_templates
    from amodal.inference.embed import as_encoder
    from amodal.maps.dense import dense_field
    from amodal.maps.queries import text_field as text_field_of
    from amodal.selection.montages import Report, Scan, write_montages

    model = code.open(run)
    encoder = as_encoder(model.encoder)
    image = dense_field(encoder.fields, field)
    selector = PatchSelector(
        encoder,
        read_classes(findings).prompts(read_templates(templates or ("{}",))),
        image=image,
        text=text_field_of(encoder, text_field, str(model.config.get("method") or ""), image),
        normal=normal,
        patch=patch,
        stride=stride,
        keep=keep,
        reduction=reduction,
        per_finding=per_finding,
    )
    written = write_montages(
        open_data(data),
        selector,
        out,
        scan=Scan(column=scans, level=level, width=width),
        report=Report(column=report, sections=listed(sections) or (), about=listed(about) or ()),
    )
    print(f"wrote {written}")
    words = ("pretrain", "clip_ild", "--init-from", run, "--data", out, "--out", "RUN")
    print(f"Next: {command(*words)}")
