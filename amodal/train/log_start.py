"""The lines that are printed when a run starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from amodal.console import stderr
from amodal.data import Dataset
from amodal.methods.contract import Method
from amodal.modalities.shared.learnt import LearnsTokens
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.backbones.single_stream import SingleStreamTrunk
from amodal.nn.transformer import size_of


def log_start(
    config: Mapping[str, Any], method: Method, dataset: Dataset, notes: Sequence[str] = ()
) -> None:
    """Print data, encoder and schedule of a run.

    Args:
        config: As in RUN/config.json.
        notes: Further lines.
    """
    encoder, schedule = method.encoder, config["schedule"]
    shape, trunks = size_of(encoder.size), getattr(encoder, "trunks", {}).values()
    pretrained = [trunk for trunk in trunks if isinstance(trunk, SingleStreamTrunk)]
    depth = len(pretrained[0].blocks) if pretrained else shape.depth
    parameters = sum(p.numel() for p in encoder.parameters())
    fields = ", ".join(f"{name} ({m.kind})" for name, m in dataset.fields.items())
    console = stderr()
    console.print(
        f"[bold]{config['method']}[/] on {dataset.name}: {config['data']['train']} of "
        f"{len(dataset)} records to train on; {fields}\n"
        f"encoder {encoder.size}: {encoder.trunk} trunk, width {shape.width}, depth {depth}, "
        f"{parameters / 1e6:.2f} M parameters; batch size {config['batch']}, "
        f"learning rate {schedule['lr']:.3g}, {schedule['steps']} steps",
        highlight=False,
    )
    lines = list(notes)
    for field, modality in dataset.fields.items():
        if isinstance(modality, LearnsTokens) and (note := modality.tokens_note()):
            lines.append(f"{field}: {note}")
    for field, share in config["data"]["truncated"].items():
        if share:
            lines.append(
                f"{field}: {share:.0%} of the values are longer than max_length and are truncated"
            )
    for field in filter(encoder.contextual, encoder.fields):
        backbone = cast(Backbone, encoder.tokenizers[field])
        name = backbone.name.partition("#{")[0]
        learns = any(p.requires_grad for p in backbone.body.parameters())
        weights = backbone.report or ("learns" if learns else "frozen, of the run")
        lines.append(f"{field}: {name}: {weights}")
    lines += [f"trunk: {trunk.report or 'no weights loaded'}" for trunk in pretrained]
    for line in lines:
        console.print(line, highlight=False)
