"""Sound models of transformers: speech encoders (wav2vec 2.0 and its kin, Whisper), the Audio
Spectrogram Transformer, and the sound half of CLAP.

A clip gives what it gives alone: clips of one length go through the model together, and nothing is
padded to the length of a neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.core.host import host_copy
from amodal.core.hub_client import model_folder
from amodal.nn.backbones.body import Body, ones_like_rows
from amodal.nn.backbones.model_sources import preprocessing, source_of

WHISPER_STRIDE = 2
"""Frames of the spectrogram in a state of Whisper."""
SPECTROGRAM = "audio-spectrogram-transformer"
SHORTEST_FRAMES = 4
"""Of a spectrogram for Whisper, whose convolutions halve it."""


class SoundField(Protocol):
    """What a body asks of a field of sound: samples a second, and seconds of the longest clip, 0
    for no limit."""

    @property
    def rate(self) -> int: ...
    @property
    def max_seconds(self) -> float: ...


class States(NamedTuple):
    """What a model makes of n clips of one length.

    Attributes:
        x: (n, L, D).
        seconds: (L,), the middles of what the states stand for.
        pitch: (L,), a second position; 0 for models of frames.
        layers: Of each layer (n, D), the mean over its states.
    """

    x: Tensor
    seconds: Tensor
    pitch: Tensor
    layers: list[Tensor]


def is_sound(modality: Any) -> bool:
    """Whether a field has samples at a rate, as sound has."""
    return isinstance(getattr(modality, "rate", None), int) and hasattr(modality, "max_seconds")


def sound_body(
    model: Any, known: dict[str, Any], modality: SoundField, folder: str, **options: Any
) -> HfSound:
    """The body of a model.

    Args:
        model: Of transformers.
        known: Its `extractor` is the content of preprocessor_config.json.
        modality: Of the field.
        folder: For messages.
        options: `is_scratch`, `layer`, see `HfSound`.

    Raises:
        AmodalError: For a model of another kind, which says what it was, and as `HfSound` does.
    """
    kind = model.config.model_type
    if kind == "whisper":
        return Whisper(model, known, modality, folder, **options)
    if kind == SPECTROGRAM:
        return Spectrograms(model, known, modality, folder, **options)
    if hasattr(model, "_get_feat_extract_output_lengths"):
        return Waves(model, known, modality, folder, **options)
    raise AmodalError(
        f"{folder} holds a {type(model).__name__}, which is not read as sound; expected a model of "
        "the kind of wav2vec 2.0, HuBERT, WavLM, data2vec-audio, Whisper or AST, or a CLAP with "
        "@projected"
    )


class HfSound(Body):
    """A sound model: waves -> states of the model over time.

    Args:
        model: Of transformers.
        known: See `sound_body`.
        modality: Of the field.
        folder: For messages.
        is_scratch: See `Body`.
        layer: Whose states they are, from 1; 0 for the last ones.

    Raises:
        AmodalError: If the field has another rate than the model.
    """

    def __init__(
        self,
        model: Any,
        known: dict[str, Any],
        modality: SoundField,
        folder: str,
        *,
        is_scratch: bool = False,
        layer: int = 0,
    ):
        super().__init__()
        self.model, self.is_scratch, self.layer = model.eval(), is_scratch, layer
        self.extract = extractor(known["extractor"])
        self.rate = int(self.extract.sampling_rate)
        if modality.rate != self.rate:
            raise AmodalError(
                f"{folder} hears {self.rate} Hz, and this field has {modality.rate} Hz: set rate = "
                f"{self.rate} for it"
            )
        self.width = int(model.config.hidden_size)

    def example(self) -> Ragged:
        """A second of silence."""
        return Ragged(torch.zeros(self.rate), torch.tensor([self.rate]))

    def forward(self, waves: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N waves of full scale 1 -> features (T, width), lengths (N,), positions (T, 3).

        Positions are seconds, and for patches of a spectrogram their place in it.
        """
        found: list[tuple[Tensor, Tensor]] = [(waves.flat, waves.flat)] * len(waves)
        for rows, clips in together(waves):
            states = self.states(clips)
            position = torch.stack([states.seconds, states.pitch, states.pitch * 0], 1)
            for row, x in zip(rows, states.x):
                found[row] = x, position.to(x.device, torch.float32)
        lengths = torch.tensor([len(x) for x, _ in found], device=waves.flat.device)
        return torch.cat([x for x, _ in found]), lengths, torch.cat([p for _, p in found])

    def hidden_states(self, values: Ragged) -> list[Tensor]:
        """See `Layered.hidden_states`."""
        found: list[list[Tensor]] = [[]] * len(values)
        for rows, clips in together(values):
            layers = self.states(clips, with_layers=True).layers
            for i, row in enumerate(rows):
                found[row] = [layer[i] for layer in layers]
        return [torch.stack(layer) for layer in zip(*found)]

    def states(self, clips: Tensor, with_layers: bool = False) -> States:
        """What the model makes of clips (n, samples)."""
        raise NotImplementedError

    def inputs(self, clips: Tensor, **options: Any) -> Tensor:
        """What the model reads of clips (n, samples), by its own extractor, which is of numpy."""
        waves = list(clips.detach().float().cpu().numpy())
        made = self.extract(waves, sampling_rate=self.rate, return_tensors="pt", **options)
        values: Tensor = made[self.extract.model_input_names[0]]
        return values.to(clips.device, next(self.model.parameters()).dtype)

    def run(self, values: Tensor, with_layers: bool) -> tuple[Tensor, list[Tensor]]:
        """The states (n, L, D) of `layer`, and those of every layer."""
        name = self.extract.model_input_names[0]
        if not self.layer and not with_layers:
            last: Tensor = self.model(**{name: values}).last_hidden_state
            return last, []
        out = self.model(**{name: values}, output_hidden_states=True)
        whole = [*out.hidden_states[1:]]
        return (whole[self.layer - 1] if self.layer else out.last_hidden_state), whole


class Waves(HfSound):
    """wav2vec 2.0, HuBERT, WavLM and others that read samples."""

    def states(self, clips: Tensor, with_layers: bool = False) -> States:
        config = self.model.config
        stride, least = 1, 1
        for kernel, step in zip(config.conv_kernel, config.conv_stride):
            least, stride = least + (kernel - 1) * stride, stride * step
        clips = nn.functional.pad(clips, (0, max(least - clips.shape[1], 0)))
        x, layers = self.run(self.inputs(clips), with_layers)
        seconds = (torch.arange(x.shape[1]) * stride + least / 2) / self.rate
        return States(x, seconds, seconds * 0, [s.mean(1) for s in layers])


class Whisper(HfSound):
    """The encoder of Whisper.

    It was trained on clips that silence fills up to 30 s. Here silence fills them up to the
    `max_seconds` of the field, whose cost is that of the longest clip, and the states of what was
    filled up are left out. With max_seconds = 30 the states are Whisper's own.

    Raises:
        AmodalError: If the field's clips may be longer than 30 s.
    """

    def __init__(
        self,
        model: Any,
        known: dict[str, Any],
        modality: SoundField,
        folder: str,
        **options: Any,
    ):
        super().__init__(model, known, modality, folder, **options)
        room = self.model.config.max_source_positions * WHISPER_STRIDE  # frames
        longest = room * self.extract.hop_length / self.rate
        if not 0 < modality.max_seconds <= longest:
            raise AmodalError(
                f"{folder} hears {longest:g} s at most, and this field's clips may have "
                f"{modality.max_seconds or 'any number of'} seconds: set max_seconds = {longest:g} "
                "for it"
            )
        frames = round(modality.max_seconds * self.rate) / self.extract.hop_length
        self.positions = max(-(-int(np.ceil(frames)) // WHISPER_STRIDE), SHORTEST_FRAMES)
        table = self.model.embed_positions.weight.detach()[: self.positions].clone()
        self.model.embed_positions = nn.Embedding.from_pretrained(table, freeze=True)
        self.model.config.max_source_positions = self.positions

    def states(self, clips: Tensor, with_layers: bool = False) -> States:
        step = self.extract.hop_length * WHISPER_STRIDE
        longest = self.positions * step
        count = max(1, -(-clips.shape[1] // step))
        values = self.inputs(clips, padding="max_length", max_length=longest, truncation=True)
        x, layers = self.run(values, with_layers)
        seconds = (torch.arange(count) + 0.5) * step / self.rate
        return States(x[:, :count], seconds, seconds * 0, [s[:, :count].mean(1) for s in layers])


class Spectrograms(HfSound):
    """AST: patches of a spectrogram of a fixed length, those of silence behind a clip left out."""

    prefix = 2  # the class and the distillation token

    def states(self, clips: Tensor, with_layers: bool = False) -> States:
        config = self.model.config
        patch, step, most = config.patch_size, config.time_stride, config.max_length
        bands = (config.num_mel_bins - patch) // config.frequency_stride + 1
        columns = (most - patch) // step + 1
        hop, window = self.rate // 100, self.rate // 40  # Kaldi's frames of 25 ms, 10 ms apart
        clips = nn.functional.pad(clips, (0, max(window - clips.shape[1], 0)))
        frames = min(1 + (clips.shape[1] - window) // hop, most)
        count = int(min(columns, max(1, -(-frames // step))))
        x, layers = self.run(self.inputs(clips), with_layers)
        band, column = torch.meshgrid(torch.arange(bands), torch.arange(count), indexing="ij")
        place = (self.prefix + band * columns + column).flatten().to(x.device)
        seconds = (column.flatten() * step + patch / 2) * hop / self.rate
        return States(x[:, place], seconds, band.flatten(), [s[:, place].mean(1) for s in layers])


class ProjectedSound(HfSound):
    """The sound half of CLAP, up to the space that both halves share: one vector a clip.

    Raises:
        AmodalError: If the field's clips may be longer than the model hears, of which it would take
            a piece by chance.
    """

    is_one_vector = is_space = True

    def __init__(
        self,
        model: Any,
        known: dict[str, Any],
        modality: SoundField,
        folder: str,
        *,
        is_scratch: bool = False,
    ):
        # its config says the width of the half, not that of the space
        super().__init__(model.audio_model, known, modality, folder, is_scratch=is_scratch)
        self.to_space = model.audio_projection.eval()
        longest = self.extract.max_length_s
        if not 0 < modality.max_seconds <= longest:
            raise AmodalError(
                f"{folder} hears {longest:g} s, and would take a piece of longer clips by chance: "
                f"set max_seconds = {longest:g} for the field"
            )
        with torch.no_grad():
            self.width = self.forward(self.example())[0].shape[1]

    def forward(self, waves: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N waves -> (N, width), lengths (N,), all 1, positions (N, 3), the middles in seconds."""
        found = [waves.flat] * len(waves)
        for rows, clips in together(waves):
            values = self.inputs(clips, truncation="rand_trunc", padding="repeatpad")
            longer = torch.zeros(len(clips), 1, dtype=torch.bool, device=clips.device)
            pooled = self.model(input_features=values, is_longer=longer).pooler_output
            for row, z in zip(rows, self.to_space(pooled)):
                found[row] = z
        z_ND = torch.stack(found)
        position = z_ND.new_zeros(len(z_ND), 3, dtype=torch.float32)
        position[:, 0] = waves.lengths / (2 * self.rate)
        return z_ND, ones_like_rows(z_ND), position


def together(waves: Ragged) -> Iterator[tuple[list[int], Tensor]]:
    """Clips of one length at a time: their rows, and their samples (n, samples)."""
    clips, lengths = waves.split(), host_copy(waves.lengths).tolist()
    for length in sorted(set(lengths)):
        rows = [i for i, other in enumerate(lengths) if other == length]
        yield rows, torch.stack([clips[i] for i in rows])


def extractor(known: dict[str, Any]) -> Any:
    """The feature extractor that preprocessor_config.json describes.

    Raises:
        AmodalError: For one that this version of transformers does not have.
    """
    import transformers

    name = known.get("feature_extractor_type", "")
    kind = getattr(transformers, name, None) if name.endswith("FeatureExtractor") else None
    if kind is None:
        raise AmodalError(
            f"preprocessor_config.json names the feature extractor {name!r}, which transformers "
            f"{transformers.__version__} does not have"
        )
    return kind.from_dict(dict(known))


def hears(rest: str) -> tuple[int, float]:
    """What a sound model takes: samples a second, and seconds of the longest clip, 0 for no limit.

    Args:
        rest: The spec behind `transformers:`, without braces.

    Raises:
        AmodalError: If there is no such folder, or it holds no model of sound.
    """
    folder = model_folder(source_of(rest).directory)
    known = preprocessing(folder, "feature_extractor")
    if not isinstance(known.get("sampling_rate"), int):
        raise AmodalError(
            f"{folder} holds no model of sound: no preprocessor_config.json names a sampling_rate"
        )
    # Whisper's chunks, CLAP's clips; AST reads the beginning of any, and waves have no limit
    longest = known.get("chunk_length") or known.get("max_length_s") or 0
    return known["sampling_rate"], float(longest)
