"""A trained encoder and what people do with it; the verbs of the command line as functions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from amodal import data as records
from amodal.adapt import adapt, predictions
from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.evaluate import Embedded, Report, changes_records, embed_records
from amodal.evaluate import evaluate as run_protocols
from amodal.inference.predict import Teller, teller
from amodal.inference.retrieve import KEYS, Finder, finder
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead
from amodal.nn.saved import saved, saved_head
from amodal.search import Engine, Hit, open_index
from amodal.search import search as run_search
from amodal.train.cache_features import remembered
from amodal.train.pretrain import pick_device
from amodal.train.pretrain import pretrain as run_pretraining
from amodal.train.run_dir import read_trained, save_encoder, save_part, weights, write_json, write_trained


def pretrain(method: str, data, out: str | Path, **settings) -> Model:
    """Pretrain on `data` without labels and return the model; see `amodal.train.pretrain.pretrain` for the settings."""
    return load(run_pretraining(method, data, out, **settings), device=settings.get("device", "auto"))


def load(path: str | Path, *, device: str = "auto") -> Model:
    """The model in a run folder, or in a folder that `Model.save` or `amodal export` wrote."""
    encoder, config = saved(path)
    path = Path(path)
    where = pick_device(device)
    answers = saved_head(path, encoder, config)
    head = teller(path, encoder, config, where) if answers is None else answers.to(where)
    return Model(encoder.to(where), config, path, read_trained(path), head)


class Model:
    """encoder: batch -> embeddings. config: how it came about. path: the run folder, None if it was never saved.
    trained: sorted hashes of the keys of the records it was trained on, None if that is not known. head: what tells labels, if it
    learnt any."""

    def __init__(
        self,
        encoder: Encoder,
        config: dict,
        path: Path | None = None,
        trained: np.ndarray | None = None,
        head: SupervisedHead | Teller | None = None,
    ):
        self.encoder, self.config, self.path, self.trained, self.head = encoder.eval(), config, path, trained, head

    @property
    def fields(self) -> dict:
        """name -> modality of each sense the encoder has."""
        return self.encoder.fields

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Tells this encoder's vectors from those of any other."""
        return self.config.get("weights_sha256", "")[:16]

    def read(self, data) -> Dataset:
        """`data`, decoded as the encoder was trained to."""
        return records.open(data).with_fields(self.fields)

    def read_what_is_there(self, data) -> Dataset:
        """The same, of data that may lack whole fields of the encoder: warns, and no record has them. Raises AmodalError if it has none."""
        dataset = records.open(data)
        gone = dataset.lacking(self.fields)
        if gone and len(gone) < len(self.fields):
            warnings.warn(
                f"{dataset.name!r} has no {' and no '.join(gone)}; records are told by the rest", stacklevel=3
            )
            dataset = dataset.with_columns(gone)
        return dataset.with_fields(self.fields)

    def embed(self, data, *, part: str | None = None, progress=None) -> Embedded:
        """Vectors of all records, or of one part ("train", "valid", "test") of them."""
        dataset = self.read(data)
        indices = dataset.split(part) if part else range(len(dataset))
        return embed_records(self.encoder, dataset, indices, device=self.device, progress=progress)

    def adapt(self, data, out: str | Path, *, label: str, **settings) -> Model:
        """Go on with this encoder until it tells `label`; see `amodal.adapt.adapt` for the settings."""
        return load(adapt(self._home(), data, out, label=label, **settings))

    def predict(self, data, *, part: str | None = None, progress=None):
        """A pyarrow Table with a row for each record: `key`, and of each label what it is told to be; of classes also the probability
        of each, `LABEL=CLASS`. Null for a record without any readable value. Raises AmodalError for a run without a head."""
        return predictions(self, data, part=part, progress=progress)

    def evaluate(
        self,
        data,
        *,
        label: str | None = None,
        protocols: Sequence[str] | None = None,
        untrained: bool = True,
        **options,
    ) -> Report:
        """Run protocols on held-out records. untrained: measure the same encoder before training beside it."""
        baseline = self.untrained().encoder if untrained else None
        chosen: dict[str, Any] = {"protocols": tuple(protocols)} if protocols else {}
        dataset = self.read(data)
        kept = self.config["schedule"].get("remember")
        if kept and not changes_records(protocols or ()):  # backbones must embed damaged values anew
            dataset = remembered(dataset, self.encoder, self.device, pooled=kept == "mean")
        return run_protocols(self, dataset, label=label, baseline=baseline, device=self.device, **chosen, **options)

    def untrained(self) -> Model:
        """The same encoder as it was before training; a pretrained backbone as it was given."""
        torch.manual_seed(self.config.get("seed", 0))
        before = encoder_config.build(self.config["encoder"])
        for field in filter(before.contextual, before.fields):
            fresh, own = cast(Any, before.tokenizers[field]), cast(Any, self.encoder.tokenizers[field])
            if self.config["schedule"]["train_backbones"]:  # it has learnt: read what it was given at first
                backbones = encoder_config.backbones({field: fresh.spec}, before.fields, before.size)
                before.tokenizers[field] = backbones[field]
            else:
                fresh.body.load_state_dict(own.body.state_dict())
        # it is compared with the trained one, so it must be tested on the same records
        return Model(before.to(self.device), self.config, trained=self.trained)

    def index(self, data, path: str | Path | None = None, **options) -> Engine:
        """Embed `data` into an index that `search` reads; records that it already holds and that have not changed are skipped.
        path: a folder, RUN/index unless given, or an address such as qdrant://localhost:6333/photos.
        options: prune=True to delete those that `data` no longer has, progress; see `amodal.search.Engine.update`."""
        return self._opened(path).update(self.read(data), device=self.device, **options)

    def search(
        self,
        *,
        k: int = 10,
        index: str | Path | None = None,
        where: dict | None = None,
        senses: Sequence[str] | None = None,
        like: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        **query,
    ) -> list[Hit]:
        """The records nearest to a query: `search(text="a red boat")`, `search(image="boat.png", text="red")`. The query's names
        are fields or kinds of data; senses: whose vectors to compare with, all unless given; like: keys of records that are parts of the
        query; weights: of its parts by name, of records by `like:KEY`, below 0 for what is unwanted."""
        return run_search(
            self._opened(index), self.encoder, query, k=k, where=where, senses=senses, weights=weights, like=like
        )

    @cached_property
    def finder(self) -> Finder:
        """What names records itself, without an index. Raises AmodalError for a run without."""
        return finder(self._home(), self.encoder, self.config, self.device)

    def generate(self, *, k: int = 10, **query) -> list[Hit]:
        """The k records that a method of generative retrieval (`grace`) names for a query, among those it was trained on:
        `generate(text="a red boat")`. Raises AmodalError for runs of other methods."""
        return self.finder(query, k=k)

    def save(self, path: str | Path) -> Path:
        """Write the encoder, its configuration, its card, and what it was trained on."""
        if self.config.get("finds"):
            rest = {n: v for n, v in self.finder.method.state_dict().items() if not n.startswith("encoder.")}
            save_part(Path(path), "method.safetensors", rest)
            write_json(Path(path) / KEYS, self.finder.keys)
        if isinstance(self.head, SupervisedHead):
            save_part(Path(path), "head.safetensors", self.head.state_dict())
        elif self.head is not None:
            rest = {n: v for n, v in self.head.method.state_dict().items() if not n.startswith("encoder.")}
            save_part(Path(path), "method.safetensors", rest)
        save_encoder(Path(path), weights(self.encoder), self.config)
        write_trained(Path(path), self.trained)
        return Path(path)

    def _opened(self, index: str | Path | None) -> Engine:
        return open_index(index or self._home() / "index", encoder=self.encoder, fingerprint=self.fingerprint)

    def _home(self) -> Path:
        if self.path is None:
            raise AmodalError("this model was never saved; save it first, or say where the index is")
        return self.path
