"""What a run says when it begins."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of


def announce(config: dict, method: Method, dataset, notes: Sequence[str] = ()) -> None:
    encoder: Encoder = method.encoder
    shape = size_of(encoder.size)
    count = sum(p.numel() for p in encoder.parameters())
    fields = ", ".join(f"{name} ({m.kind})" for name, m in dataset.fields.items())
    say = Console(stderr=True)
    say.print(
        f"[bold]{config['method']}[/] on {dataset.name}: {config['data']['train']} of {len(dataset)} records to train on; {fields}\n"
        f"encoder {encoder.size}: {encoder.trunk} trunk, width {shape.width}, depth {shape.depth}, {count / 1e6:.2f} M parameters; "
        f"batch {config['batch']}, learning rate {config['schedule']['lr']:.3g}, {config['schedule']['steps']} steps",
        highlight=False,
    )
    for note in notes:
        say.print(note, highlight=False)
    for field, share in config["data"]["truncated"].items():
        if share:
            say.print(
                f"{field}: {share:.0%} of the values are longer than max_length and are cut off",
                highlight=False,
            )
    for field in filter(encoder.contextual, encoder.fields):
        say.print(
            f"{field}: {encoder.tokenizers[field].name.partition('#{')[0]}: {encoder.tokenizers[field].report or 'no weights loaded'}",
            highlight=False,
        )
