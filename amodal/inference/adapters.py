"""A model in the places where other libraries expect one of theirs.

Nothing of those libraries is imported before it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import torch
from torch import Tensor, nn

import amodal
from amodal.core import AmodalError
from amodal.errors import described
from amodal.inference.encode import EncodeMixin, Vectors

if TYPE_CHECKING:
    from amodal.model import Model

MODULE_FILE = "sentence_module.json"
"""Beside a saved model: what else `SentenceModule` needs."""
ROWS = "amodal_rows"
"""Of the features that go through modules of sentence-transformers: vectors, in place of ids."""


class MtebEncoder:
    """A model for `mteb.evaluate`: text, picture and sound tasks, and those of pairs of them.

    Args:
        model: Of this library.
        name: In the table of results, ORG/NAME.
        revision: In the table of results.
        fields: What the benchmark calls a kind of value ("text", "image", "audio") -> the field of
            the model that reads it; by default the only field of that kind.

    Raises:
        AmodalError: For what is no model, a name of another form, and a field that the model does
            not have.
    """

    def __init__(
        self,
        model: Model,
        name: str = "amodal/model",
        *,
        revision: str = "local",
        fields: Mapping[str, str] | None = None,
    ):
        _check_model(model, "MtebEncoder")
        if not isinstance(name, str) or not re.fullmatch(r"[^/\s]+/[^/\s]+", name):
            raise AmodalError(
                "name is ORG/NAME in the table of results, such as 'someone/photos', not "
                f"{described(name)}"
            )
        self.model, self.name, self.revision = model, name, revision
        known = model.encoder.fields
        chosen = dict(fields or {})
        # the benchmark calls kinds of values as modalities are called here
        kinds = [modality.kind for modality in known.values()]
        for field, kind in zip(known, kinds):
            if kinds.count(kind) == 1:
                chosen.setdefault(kind, field)
        for kind, field in chosen.items():
            if field not in known:
                raise AmodalError(
                    f"the model has no field {field!r} for {kind}; it has {', '.join(known)}"
                )
        self.fields = chosen

    @property
    def mteb_model_meta(self) -> Any:
        """What the table of results says of the model."""
        from mteb.models import ModelMeta
        from mteb.types import Modalities

        encoder = self.model.encoder
        values: dict[str, Any] = dict.fromkeys(ModelMeta.model_fields)
        values |= {
            "name": self.name,
            "revision": self.revision,
            "n_parameters": sum(p.numel() for p in encoder.parameters()),
            "embed_dim": encoder.space_width,
            "similarity_fn_name": "cosine",
            "framework": ["PyTorch"],
            "modalities": sorted(set(self.fields) & set(get_args(Modalities))),
            "use_instructions": False,
        }
        return ModelMeta(
            **{k: v for k, v in values.items() if v is not None or _needs(ModelMeta, k)}
        )

    def encode(self, inputs: Any, **options: Any) -> Vectors:
        """Vectors of the values of a task.

        Args:
            inputs: A DataLoader of dicts: "text", "image" or "audio" -> values of a batch. What has
                several kinds is embedded as records of several fields.
            options: What the benchmark says beside them; `show_progress_bar` is heeded.

        Returns:
            (n, D) float32.

        Raises:
            AmodalError: If no field of the model reads what a batch has.
        """
        parts = [torch.from_numpy(self._vectors(batch)) for batch in inputs]
        joined: Vectors = torch.cat(parts).numpy()
        return joined

    def _vectors(self, batch: Mapping[str, Any]) -> Vectors:
        columns = {self.fields[k]: list(batch[k]) for k in self.fields if k in batch}
        if not columns:
            raise AmodalError(
                f"the task has {', '.join(batch)}, and the model reads {', '.join(self.fields)}"
            )
        if len(columns) > 1:
            records: Vectors = self.model.encode(columns)
            return records
        [(field, values)] = columns.items()
        vectors: Vectors = self.model.encode(values, field=field)
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of all pairs, (n, m)."""
        return torch.as_tensor(self.model.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of the pairs at equal places, (n,)."""
        left, right = (torch.as_tensor(x).float() for x in (embeddings1, embeddings2))
        cosines = torch.cosine_similarity(left, right)
        return cosines.abs() if self.model.encoder.similarity == "abs_cosine" else cosines


def _check_model(model: object, adapter: str) -> None:
    if not isinstance(model, EncodeMixin):
        raise AmodalError(
            f"{adapter} takes a model, as amodal.load and amodal.pretrain return it, not "
            f"{described(model)}"
        )


def _needs(kind: Any, name: str) -> bool:
    return bool(kind.model_fields[name].is_required())


class SentenceModule(nn.Module):
    """A model as the one module of a SentenceTransformer, for its evaluators and indices.

    A model of sentence-transformers whose only module this is has the vectors of `Model.encode`.
    They come without gradients: a model is trained by its own methods.

    Args:
        model: Of this library.
        field: Whose values it embeds; by default the only one of text.

    Raises:
        AmodalError: For what is no model.
    """

    def __init__(self, model: Model, field: str | None = None):
        super().__init__()
        _check_model(model, "SentenceModule")
        self.model, self.field = model, field
        self.width = model.encoder.space_width

    def preprocess(self, values: Sequence[Any], **options: Any) -> dict[str, Tensor]:
        """The features of values: their vectors, (n, D)."""
        prompt = options.get("prompt") or ""
        read = [prompt + v if prompt and isinstance(v, str) else v for v in values]
        return {ROWS: self.model.encode(read, field=self.field, convert_to_tensor=True)}

    tokenize = preprocess  # its name before version 6

    def forward(self, features: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
        """See the modules of sentence-transformers."""
        features["sentence_embedding"] = features[ROWS]
        return features

    def get_embedding_dimension(self) -> int:
        """D."""
        return int(self.width)

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before version 6

    def save(self, output_path: str | Path, *args: Any, **options: Any) -> None:
        """Write the model to a folder, from which `load` and `amodal.load` read it.

        Args:
            output_path: The folder.
            args, options: Of sentence-transformers; without effect.
        """
        folder = self.model.save(output_path)
        known = json.dumps({"field": self.field})
        (folder / MODULE_FILE).write_text(known + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model_name_or_path: str | Path, subfolder: str = "", **options: Any) -> Self:
        """Read what `save` wrote. sentence-transformers does so with `trust_remote_code=True`, as
        for any module that is none of its own.

        Args:
            model_name_or_path: The folder.
            subfolder: In it.
            options: Of sentence-transformers; without effect.

        Raises:
            AmodalError: If no such model is there.
        """
        folder = Path(model_name_or_path) / subfolder
        file = folder / MODULE_FILE
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return cls(amodal.load(folder), known.get("field"))
