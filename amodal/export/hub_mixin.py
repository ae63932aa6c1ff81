"""The manners of the Hugging Face Hub: `from_pretrained`, `save_pretrained`, `push_to_hub`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from torch import nn

from amodal.core import AmodalError, hub_client
from amodal.core.argument_types import check_type, is_path
from amodal.export.model_card import model_card
from amodal.modalities import Modality
from amodal.nn.saved import read_config

if TYPE_CHECKING:
    from amodal.methods import MethodLike
    from amodal.model import Model


class HubMixin:
    """Adds the three to a model that can write itself into a folder and open one."""

    config: dict[str, Any]
    path: Path | None

    def forget_path(self) -> None:
        """Live on in memory alone, for a run folder that is temporary."""
        self.path = None

    @classmethod
    def _open(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        method: MethodLike | None = None,
        backbones: Mapping[str, nn.Module] | None = None,
        read_only: bool = False,
    ) -> Self:
        raise NotImplementedError

    @property
    def fields(self) -> dict[str, Modality]:
        raise NotImplementedError

    def save(self, path: str | Path, *, packaged: bool = True) -> Path:
        raise NotImplementedError

    def export(
        self, out: str | Path, *, to: str = "safetensors", packaged: bool = True
    ) -> list[Path]:
        """Write the model for use elsewhere, as `amodal export` does.

        Args:
            out: The folder.
            to: "safetensors", a folder for `amodal.load`; "huggingface", the same for the Hub (see
                `push_to_hub`, which uploads it); "onnx", a graph for each field.
            packaged: See `save_pretrained`.

        Returns:
            The files.

        Raises:
            AmodalError: For another form, and as `amodal.export.export` does.
        """
        from amodal.export import export as write

        check_type("out", out, is_path, "a folder")
        return write(cast("Model", self), to, out, packaged=packaged)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        device: str = "auto",
        method: MethodLike | None = None,
        backbones: Mapping[str, nn.Module] | None = None,
    ) -> Self:
        """Open a model in a folder or on the Hugging Face Hub.

        A folder never touches the network. From the Hub only JSON and safetensors are fetched, and
        nothing of them is run. The Hub's copy does not say which records were trained on, so
        `evaluate` cannot leave them out.

        Args:
            name: A folder, or a repository `OWNER/NAME`. What exists as a folder is a folder.
            revision: Of a repository: a branch, a tag or a commit.
            token: Of a private repository; None for that of `hf auth login`.
            cache_dir: In place of the usual cache of huggingface_hub.
            local_files_only: Take what the cache holds, and ask nobody.
            device: auto, cpu, cuda, cuda:N.
            method: The function of a method of one's own, if it was trained with one.
            backbones: field -> the module, for backbones of one's own.

        Raises:
            AmodalError: If there is no such folder, repository or revision, if the Hub cannot be
                reached and the cache does not hold it, and as `load` does.
        """
        check_type("name", name, is_path, "a folder, or OWNER/NAME of a repository on the Hub")
        folder = Path(name).expanduser()
        if folder.exists():
            if revision is not None:
                raise AmodalError(
                    f"{name} is a folder, and revision = {revision!r} is of repositories on the "
                    "Hub; leave it out"
                )
            return cls._open(folder, device=device, method=method, backbones=backbones)
        if not hub_client.is_repo_id(str(name)):
            raise AmodalError(
                f"there is no folder {name}, and the Hugging Face Hub has names such as OWNER/NAME"
            )
        folder = hub_client.download(
            str(name),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls._open(folder, device=device, method=method, backbones=backbones, read_only=True)

    def save_pretrained(self, folder: str | Path, *, packaged: bool = True) -> Path:
        """Write what `from_pretrained` reads, with a model card for the Hugging Face Hub.

        Args:
            folder: Where.
            packaged: With the weights of frozen `package:` backbones. Without, they are fetched
                from their packages when the model is opened: heads on MiniLM and EfficientNet-lite0
                take 5 MB in place of 110.

        Returns:
            The folder.

        Raises:
            AmodalError: If it cannot be written.
        """
        return self._save_for_hub(self.save(folder, packaged=packaged), name="FOLDER")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload the model",
        packaged: bool = True,
    ) -> str:
        """Push the model to the Hugging Face Hub: spec.json, config.json, model.safetensors and a
        model card. Needs `pip install amodal[hub]`.

        Args:
            repo_id: `OWNER/NAME`, made if there is none.
            private: Of a repository that is made; None for the owner's default.
            token: With the right to write; None for that of `hf auth login`.
            revision: The branch; the main one if None.
            commit_message: Of the commit.
            packaged: See `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            AmodalError: If the Hub cannot be reached, or refuses.
        """
        with tempfile.TemporaryDirectory(prefix="amodal-") as temporary:
            folder = self._save_for_hub(self.save(temporary, packaged=packaged), name=repo_id)
            return hub_client.upload(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
            )

    def _save_for_hub(self, folder: Path, *, name: str) -> Path:
        written = read_config(folder / "config.json")
        text = model_card(self, written["weights_sha256"], name=name, written=written)
        try:
            (folder / "README.md").write_text(text, encoding="utf-8")
        except OSError as e:
            raise AmodalError(f"could not write the model card to {folder}: {e}") from e
        return folder
