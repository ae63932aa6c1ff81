"""A trained encoder and what people do with it; the verbs of the command line as functions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from amodal import data as records
from amodal.adapt import adapt, predictions
from amodal.core import AmodalError
from amodal.core.part import Spec
from amodal.data import Dataset
from amodal.evaluate import Embedded, Report, changes_records, embed_records
from amodal.evaluate import evaluate as run_protocols
from amodal.inference.predict import MethodPredictor
from amodal.inference.retrieve import KEYS, GenerativeRetriever, keys_of
from amodal.methods import is_user_code
from amodal.methods.contract import Method
from amodal.methods.saved import SPEC, load_run, untrained
from amodal.nn import config as encoder_config
from amodal.nn.backbones.module import ModuleBackbone
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead
from amodal.nn.saved import FORMAT
from amodal.search import Engine, Hit, open_index
from amodal.search import search as run_search
from amodal.train.cache_features import remembered
from amodal.train.pretrain import pick_device
from amodal.train.pretrain import pretrain as run_pretraining
from amodal.train.run_dir import (
    path_made,
    read_trained,
    save_weights,
    weights,
    write_json,
    write_trained,
)

if TYPE_CHECKING:
    from amodal.methods import MethodLike


def pretrain(method: MethodLike, data, out: str | Path, **settings) -> Model:
    """Pretrain on `data` without labels and return the model.

    Args:
        method: A name (`amodal methods` lists them), a function (encoder, *, options) ->
        amodal.Method, or where one is:
            `package.module:function`, `file.py:function`.
        settings: See `amodal.train.settings.Settings`.
    """
    run = run_pretraining(method, data, out, **settings)
    mine = method if is_user_code(method) else None
    modules = {f: b for f, b in (settings.get("backbones") or {}).items() if not isinstance(b, str)}
    return load(run, device=settings.get("device", "auto"), method=mine, backbones=modules)


def load(
    path: str | Path,
    *,
    device: str = "auto",
    method: MethodLike | None = None,
    backbones: Mapping[str, Any] | None = None,
) -> Model:
    """The model in a run folder, or in a folder that `Model.save` or `amodal export` wrote.

    Args:
        method: The function of a method of one's own, if the run was trained with one.
        backbones: field -> the module, for backbones of one's own.
    """
    path, where = Path(path), pick_device(device)
    run = load_run(path, method=method, backbones=backbones)
    whole = run.encoder if run.method is None else run.method
    whole.to(where)
    head: SupervisedHead | MethodPredictor | None = (
        run.head.to(where) if run.head is not None else None
    )
    if head is None and run.targets:
        head = MethodPredictor(run.method, run.targets)
    return Model(
        run.encoder,
        run.config,
        path,
        read_trained(path),
        head,
        method=run.method,
        spec=run.spec,
        own=run.user_code,
    )


class Model:
    """A trained method and its encoder.

    Args:
        encoder: batch -> embeddings. config: How it came about. path: The run folder, None if it
        was never saved. trained: Sorted hashes of the keys of the records it was trained on, None
        if that is not known. head: What predicts labels, if it learnt any. method: The whole
        method, None for an encoder alone. spec: How the method is built (see
        `amodal.methods.saved`). own: Code of the user's that it was built with.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: dict,
        path: Path | None = None,
        trained: np.ndarray | None = None,
        head: SupervisedHead | MethodPredictor | None = None,
        *,
        method: Method | None = None,
        spec: Spec | None = None,
        own: Mapping[str, Any] | None = None,
    ):
        self.encoder, self.config, self.path, self.trained, self.head = (
            encoder.eval(),
            config,
            path,
            trained,
            head,
        )
        self.method, self.spec, self.own = method, spec or {}, own or {}

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds the encoder and the head, as an estimator needs them; `save` writes the
        whole method."""
        return self.__dict__ | {"method": None, "spec": {}, "own": {}}

    @property
    def fields(self) -> dict:
        """name -> modality of each field the encoder has."""
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
        """The same, of data that may lack whole fields of the encoder: warns, and no record has
        them. Raises AmodalError if it has none."""
        dataset = records.open(data)
        gone = dataset.lacking(self.fields)
        if gone and len(gone) < len(self.fields):
            warnings.warn(
                f"{dataset.name!r} has no {' and no '.join(gone)}; records are told by the rest",
                stacklevel=3,
            )
            dataset = dataset.with_columns(gone)
        return dataset.with_fields(self.fields)

    def embed(self, data, *, part: str | None = None, progress=None) -> Embedded:
        """Vectors of all records, or of one part ("train", "valid", "test") of them."""
        dataset = self.read(data)
        indices = dataset.split(part) if part else range(len(dataset))
        return embed_records(self.encoder, dataset, indices, device=self.device, progress=progress)

    def adapt(self, data, out: str | Path, *, label: str, **settings) -> Model:
        """Go on with this encoder until it tells `label`; see `amodal.adapt.adapt` for the
        settings."""
        return load(adapt(self._home(), data, out, label=label, **settings))

    def predict(self, data, *, part: str | None = None, progress=None):
        """A pyarrow Table with a row for each record: `key`, and of each label what it is told to
        be; of classes also the probability of each, `LABEL=CLASS`. Null for a record without any
        readable value. Raises AmodalError for a run without a head."""
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
        """Run protocols on held-out records. untrained: measure the same encoder before training
        beside it."""
        baseline = self.untrained().encoder if untrained else None
        chosen: dict[str, Any] = {"protocols": tuple(protocols)} if protocols else {}
        dataset = self.read(data)
        kept = self.config["schedule"].get("remember")
        if kept and not changes_records(
            protocols or ()
        ):  # backbones must embed damaged values anew
            dataset = remembered(dataset, self.encoder, self.device, pooled=kept == "mean")
        return run_protocols(
            self, dataset, label=label, baseline=baseline, device=self.device, **chosen, **options
        )

    def untrained(self) -> Model:
        """The same encoder as it was before training; a pretrained backbone as it was given."""
        if self.spec.get("encoder"):
            before = untrained(self.spec, self.config, self.own)
        else:
            torch.manual_seed(self.config.get("seed", 0))
            before = encoder_config.build(self.config["encoder"])
        for field in filter(before.contextual, before.fields):
            fresh, mine = (
                cast(Any, before.tokenizers[field]),
                cast(Any, self.encoder.tokenizers[field]),
            )
            if self.config["schedule"][
                "train_backbones"
            ]:  # it has learnt: read what it was given at first
                if isinstance(fresh, ModuleBackbone):
                    warnings.warn(
                        f"the backbone of {field!r} is your own module and has learnt; what it was before is not known, so the "
                        "untrained encoder has it as it is now",
                        stacklevel=2,
                    )
                    fresh.load_body(mine)
                    continue
                backbones = encoder_config.backbones(
                    {field: fresh.name}, before.fields, before.size
                )
                before.tokenizers[field] = backbones[field]
            else:
                fresh.load_body(mine)
        # it is compared with the trained one, so it must be tested on the same records
        return Model(before.to(self.device), self.config, trained=self.trained)

    def index(self, data, path: str | Path | None = None, **options) -> Engine:
        """Embed `data` into an index that `search` reads; records that it already holds and that
        have not changed are skipped. path: a folder, RUN/index unless given, or an address such as
        qdrant://localhost:6333/photos. options: prune=True to delete those that `data` no longer
        has, progress; see `amodal.search.Engine.update`."""
        return self._opened(path).update(self.read(data), device=self.device, **options)

    def search(
        self,
        *,
        k: int = 10,
        index: str | Path | None = None,
        where: dict | None = None,
        fields: Sequence[str] | None = None,
        like: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        **query,
    ) -> list[Hit]:
        """The records nearest to a query: `search(text="a red boat")`, `search(image="boat.png",
        text="red")`. The query's names are fields or kinds of data; fields: whose vectors to
        compare with, all unless given; like: keys of records that are parts of the query; weights:
        of its parts by name, of records by `like:KEY`, below 0 for what is unwanted."""
        return run_search(
            self._opened(index),
            self.encoder,
            query,
            k=k,
            where=where,
            fields=fields,
            weights=weights,
            like=like,
        )

    @cached_property
    def retriever(self) -> GenerativeRetriever:
        """What names records itself, without an index. Raises AmodalError for a run without."""
        if not self.spec.get("retrieves"):
            why = (
                "the run was made before its decoder was saved, or with an average of weights; train it again"
                if self.config.get("method") == "grace"
                else f"{self.config.get('method', 'this encoder')} finds records by an index: leave --generate out, or train grace"
            )
            raise AmodalError(f"the run in {self._home()} writes no identifiers of records: {why}")
        return GenerativeRetriever(cast(Any, self.method), keys_of(self._home()))

    def generate(self, *, k: int = 10, **query) -> list[Hit]:
        """The k records that a method of generative retrieval (`grace`) names for a query, among
        those it was trained on: `generate(text="a red boat")`. Raises AmodalError for runs of other
        methods."""
        return self.retriever(query, k=k)

    def save(self, path: str | Path) -> Path:
        """Write the method, its configuration, its card, and what it was trained on."""
        path = Path(path)
        if self.method is None:
            self._save_encoder(path)
        else:
            if self.spec["retrieves"]:
                write_json(path_made(path) / KEYS, self.retriever.keys)
            write_json(path_made(path) / SPEC, self.spec)
            save_weights(path, weights(self.method), self.config)
        write_trained(path, self.trained)
        return path

    def _save_encoder(self, path: Path) -> None:
        if self.head is not None:
            raise AmodalError(
                f"the run in {self.path} is of an older format, whose head is not written anew; copy its folder"
            )
        spec = {
            "format": FORMAT,
            "method": None,
            "code": None,
            "options": {},
            "encoder": self.encoder.spec,
        }
        write_json(path_made(path) / SPEC, spec | {"targets": [], "retrieves": False})
        save_weights(path, weights(self.encoder), self.config)

    def _opened(self, index: str | Path | None) -> Engine:
        return open_index(
            index or self._home() / "index", encoder=self.encoder, fingerprint=self.fingerprint
        )

    def _home(self) -> Path:
        if self.path is None:
            raise AmodalError(
                "this model was never saved; save it first, or say where the index is"
            )
        return self.path
