"""A trained method and what people do with it: the verbs of the command line as functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from amodal import data as records
from amodal.adapt import adapt, predictions
from amodal.cluster import Clustering, cluster
from amodal.core import AmodalError
from amodal.core.argument_types import check_type, is_path
from amodal.core.part import Spec, supplied
from amodal.data import Dataset, Openable
from amodal.evaluate import Diagnosis, Embedded, Report, embed_records
from amodal.evaluate.diagnoses import diagnose
from amodal.evaluation import evaluate_run
from amodal.export.hub_mixin import HubMixin
from amodal.inference.encode import EncodeMixin
from amodal.inference.heads import AnyHead, head_of, method_of_head
from amodal.inference.partial_data import read_partial
from amodal.inference.probe_head import ProbeHead
from amodal.inference.query import merged
from amodal.inference.retrieve import KEYS, RetrieveMixin
from amodal.linkage import Links, link
from amodal.maps import Maps, RegionTexts, map_records
from amodal.methods import is_user_code
from amodal.methods.contract import Method
from amodal.methods.saved import SPEC, BackboneLike, load_run
from amodal.methods.shared.packaged_weights import leave_out
from amodal.modalities import Modality
from amodal.nn.backbones.pretrained import is_own_code
from amodal.nn.encoder import Encoder
from amodal.progress import Counter, counted
from amodal.search import Engine, Hit, open_index
from amodal.search import search as run_search
from amodal.selection import Selection, curate
from amodal.train.cache_features import features_of_run
from amodal.train.own_loop import config_of
from amodal.train.pretrain import pick_device
from amodal.train.pretrain import pretrain as run_pretraining
from amodal.train.run_dir import model_dir, read_trained, save_weights, weights, write_trained
from amodal.untrained import untrained_encoder

if TYPE_CHECKING:
    import pyarrow as pa

    from amodal.methods import MethodLike


def pretrain(method: MethodLike, data: Openable, out: str | Path, **settings: Any) -> Model:
    """Pretrain on `data` without labels. Modules in `backbones` are copied, and stay as they are.

    Args:
        method: A name (`amodal methods` lists them), a function (encoder, *, options) ->
            amodal.Method, or where one is: `package.module:function`, `file.py:function`.
        data: Whatever `amodal.open` takes.
        out: The run folder to write.
        settings: See `amodal.train.settings.Settings`.

    Returns:
        The trained model.
    """
    run = run_pretraining(method, data, out, **settings)
    mine = method if is_user_code(method) else None
    modules = {f: b for f, b in (settings.get("backbones") or {}).items() if is_own_code(b)}
    device = settings.get("device", "auto")
    return Model._open(run, device=device, method=mine, backbones=modules, same_code=True)


def load(
    path: str | Path,
    *,
    device: str = "auto",
    method: MethodLike | None = None,
    backbones: Mapping[str, BackboneLike] | None = None,
) -> Model:
    """Open a run folder, or a folder that `Model.save` or `amodal export` wrote.

    Args:
        path: The folder.
        device: auto, cpu, cuda, cuda:N.
        method: The function of a method of one's own, if the run was trained with one.
        backbones: field -> the module, to be copied, or FILE.py:NAME, for backbones of one's own.

    Returns:
        The model, in evaluation mode.

    Raises:
        AmodalError: For no run, an unfinished one, damaged weights, and code that was not passed.
    """
    check_type("the run", path, is_path, "a folder")
    return Model._open(Path(path), device=device, method=method, backbones=backbones)


class Model(EncodeMixin, RetrieveMixin, HubMixin):
    """A trained method and its encoder.

    Args:
        encoder: batch -> embeddings.
        config: How it came about (config.json).
        path: The run folder, None if it was never saved.
        trained: (n,) uint64 sorted hashes of the keys it was trained on; None if unknown.
        head: Predicts labels, if it learnt any. method: The whole method, None for an encoder.
        spec: How the method is built (see `amodal.methods.saved`).
        user_code: Code of the user's that it was built with.
        read_only: `path` is a cache in which nothing may be written.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: dict[str, Any],
        path: Path | None = None,
        trained: npt.NDArray[np.uint64] | None = None,
        head: AnyHead | None = None,
        *,
        method: Method | None = None,
        spec: Spec | None = None,
        user_code: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ):
        self.encoder, self.config, self.path = encoder.eval(), config, path
        self.trained, self.head, self.read_only = trained, head, read_only
        self.method, self.spec, self.user_code = method, spec or {}, user_code or {}

    @classmethod
    def _open(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        method: MethodLike | None = None,
        backbones: Mapping[str, BackboneLike] | None = None,
        read_only: bool = False,
        same_code: bool = False,
    ) -> Model:
        target = pick_device(device)
        run = load_run(folder, method=method, backbones=backbones, same_code=same_code)
        run.module.to(target)
        return cls(
            run.encoder,
            run.config,
            folder,
            read_trained(folder),
            head_of(run, folder, target),
            method=run.method,
            spec=run.spec,
            user_code=run.user_code,
            read_only=read_only,
        )

    @classmethod
    def of(cls, encoder: Encoder, data: Openable, rows: npt.ArrayLike | None = None) -> Model:
        """A model of an encoder that a loop of one's own has trained.

        Args:
            encoder: It is put into evaluation mode.
            data: What it was trained on.
            rows: Numbers of the records that it was trained on, all if None: no evaluation tests it
                on these.
        """
        config, trained = config_of(encoder, records.open(data), rows)
        return cls(encoder, config, trained=np.unique(trained))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the method out: an estimator needs the encoder and the head alone."""
        return self.__dict__ | {"method": None, "spec": {}, "user_code": {}}

    @property
    def fields(self) -> dict[str, Modality]:
        """name -> modality of each field that the encoder has."""
        return self.encoder.fields

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.encoder.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Of the weights: vectors with another fingerprint come from another encoder."""
        digest: str = self.config.get("weights_sha256", "")
        return digest[:16]

    def read(self, data: Openable) -> Dataset:
        """Open `data` with the fields of the encoder, decoded as it was trained to.

        What lacks whole fields is read too, with a warning; AmodalError if it lacks all of them.
        """
        return read_partial(data, self.fields)

    def with_features(self, dataset: Dataset) -> Dataset:
        """The dataset with cached features of frozen backbones, if the run was trained on such."""
        return features_of_run(dataset, self.encoder, self.config, self.device)

    def embed(
        self,
        data: Openable,
        *,
        part: str | None = None,
        progress: Counter = None,
    ) -> Embedded:
        """Embed records: a vector of each source of each, with keys and labels.

        Args:
            data: Whatever `amodal.open` takes.
            part: "train", "valid" or "test"; all records if None.
            progress: True for a bar, or called with the number of records just done.
        """
        dataset = self.with_features(self.read(data))
        rows = dataset.split(part) if part else range(len(dataset))
        with counted(progress, "embed", len(rows)) as done:
            return embed_records(self.encoder, dataset, rows, device=self.device, progress=done)

    def adapt(self, data: Openable, out: str | Path, *, label: str, **settings: Any) -> Model:
        """Fine-tune this encoder to predict `label`; see `amodal.adapt.adapt` for the settings."""
        with supplied(self.user_code):
            return load(adapt(self._run_dir(), data, out, label=label, **settings))

    def predict(
        self,
        data: Openable,
        *,
        part: str | None = None,
        by_field: bool = False,
        progress: Counter = None,
        **by_name: Any,
    ) -> pa.Table:
        """Predict labels of records, classes by their names, or the field that a method generates.

        Args:
            data, part: Whatever `amodal.open` takes; "train", "valid" or "test", all if None.
            by_field: Before any field and after each, `LABEL, after FIELD` (multimodn).
            progress: True for a bar, or called with the number of records just done.
            by_name: `classes=`, seen or not; see `amodal.inference.class_predictions.classify`.

        Returns:
            A row a record: `key`; each label, of classes also `LABEL=CLASS`; or what is generated.

        Raises:
            AmodalError: For a run that predicts nothing.
        """
        with counted(progress, "predict") as done:
            return predictions(self, data, part=part, by_field=by_field, progress=done, **by_name)

    def evaluate(
        self,
        data: Openable,
        *,
        label: str | None = None,
        protocols: Sequence[str] | None = None,
        untrained: bool = True,
        **options: Any,
    ) -> Report:
        """Run protocols on held-out records.

        Args:
            data: Whatever `amodal.open` takes.
            label: The label that probes learn; chosen from the data if None.
            protocols: Names; those that fit the data if None.
            untrained: Measure the same encoder before training beside it.
            options: Of `amodal.evaluate.evaluate`.
        """
        return evaluate_run(
            self,
            data,
            self.fields,
            protocols=protocols,
            baseline=self.untrained().encoder if untrained else None,
            device=self.device,
            with_features=self.with_features,
            label=label,
            **options,
        )

    def cluster(self, data: Openable, **options: Any) -> Clustering:
        """Divide records into clusters, without any label; see `amodal.cluster.cluster`."""
        return cluster(self, data, **options)

    def map(self, data: Openable, out: str | Path, **options: Any) -> Maps | RegionTexts:
        """Draw where things are in pictures; see `amodal.maps.map_records`."""
        return map_records(self, data, out, **options)

    def link(self, data: Openable, **options: Any) -> Links:
        """Link records of one thing, of one set or two; see `amodal.linkage.link`."""
        return link(self, data, **options)

    def curate(self, data: Openable, *, by: str, **options: Any) -> Selection:
        """Choose records by a rule that scores by this run; see `amodal.selection.curate`."""
        return curate(data, by=by, model=self, **options)

    def diagnose(self, data: Openable, **options: Any) -> Diagnosis:
        """What the vectors look like; see `amodal.evaluate.diagnoses.diagnose`."""
        return diagnose(self, data, **options)

    def untrained(self) -> Model:
        """The same encoder as it was before training, with pretrained backbones as they came."""
        before = untrained_encoder(self.encoder, self.spec, self.config, self.user_code)
        # It is compared with the trained one, so it must be tested on the same records.
        return Model(before.to(self.device), self.config, trained=self.trained)

    def index(self, data: Openable, path: str | Path | None = None, **options: Any) -> Engine:
        """Embed `data` into an index; records that it holds and that have not changed are skipped.

        Args:
            data: Whatever `amodal.open` takes.
            path: A folder, or an address (qdrant://HOST:PORT/NAME); RUN/index if None.
            options: prune=True deletes what is gone from `data`; progress is that of `embed`; see
                `amodal.search.Engine.update`.
        """
        dataset = self.with_features(self.read(data))
        with counted(options.pop("progress", None), "index", len(dataset)) as done:
            options |= {"device": self.device, "progress": done}
            return self.open_index(path).update(dataset, **options)

    def search(
        self,
        parts: Mapping[str, Any] | None = None,
        /,
        *,
        k: int = 10,
        index: str | Path | None = None,
        where: dict[str, Any] | None = None,
        fields: Sequence[str] | None = None,
        like: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        **query: Any,
    ) -> list[Hit]:
        """Find the records nearest to a query, best first: `search(image="boat.png", text="red")`.

        Args:
            parts: The query, or parts of it that have a name of an option here (`{"k": 5}`).
            k: How many.
            index: A folder or an address; RUN/index if None.
            where: A filter on labels, see `amodal.search.filter.Where`.
            fields: Whose vectors to compare with; all if None.
            like: Keys of records that are parts of the query.
            weights: Of parts by name, of records by `like:KEY`; below 0 for what is unwanted.
            query: Fields or kinds of data -> values.
        """
        query, engine = merged(parts, query), self.open_index(index)
        options: dict[str, Any] = {"where": where, "fields": fields, "weights": weights}
        return run_search(engine, self.encoder, query, k=k, like=like, **options)

    def save(self, path: str | Path, *, packaged: bool = True) -> Path:
        """Write the method, configuration, card, and hashes of the training keys to a folder; the
        weights of frozen `package:` backbones too, unless `packaged` is False."""
        check_type("path", path, is_path, "a folder")
        path, (method, spec) = Path(path), self._whole()
        beside: dict[str, Any] = {SPEC: spec}
        if method is not None and spec["retrieves"]:
            beside[KEYS] = list(self.retriever.keys)
        # Before the model: one without it would be evaluated on what it was trained on.
        write_trained(model_dir(path), self.trained)
        config = dict(self.config)
        if isinstance(self.head, ProbeHead):
            config["head"] = self.head.save(path)
        module = self.encoder if method is None else method
        tensors = weights(module)
        if not packaged:
            tensors, beside[SPEC], config = leave_out(module, tensors, spec, config)
        save_weights(path, tensors, config, beside)
        return path

    def _whole(self) -> tuple[Method | None, Spec]:
        """The method, None for an encoder alone, and its spec."""
        if self.method is not None:
            return self.method, self.spec
        return method_of_head(self.head, self.encoder, self.config, self.path)

    def open_index(self, index: str | Path | None = None) -> Engine:
        """The index of this run. index: a folder or an address; RUN/index if None."""
        if index is None and self.read_only:
            raise AmodalError(
                "this model lies in the cache of the Hub, where no index belongs; say where it is, "
                'as in model.index(data, "photos.index")'
            )
        return open_index(
            self._run_dir() / "index" if index is None else index,
            encoder=self.encoder,
            fingerprint=self.fingerprint,
        )

    def _run_dir(self) -> Path:
        if self.path is None:
            raise AmodalError("this model was never saved; save it, or say where the index is")
        return self.path
