"""Model repositories of the Hugging Face Hub: what is pushed there, and what is fetched.

A repository of this library holds the files of a run folder: spec.json, config.json,
model.safetensors, and a model card. Others hold a model of transformers. Only JSON, safetensors and
lists of words are fetched, and nothing of them is run.

`huggingface_hub.ModelHubMixin` is not used: it is a base class, so `import amodal` would need the
package, and it writes a config.json of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from amodal.errors import AmodalError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REQUIRED = ("spec.json", "config.json", "model.safetensors")
FETCHED = (*REQUIRED, "keys.json", "tokenizer-*.json")
"""The last two of methods that name records themselves, and of pretrained text models."""
PUSHED = (*FETCHED, "README.md")
PATIENCE = 5.0
"""Seconds in which the Hub must begin to answer the first request."""
WEIGHTS_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Contents:
    """What is fetched of a repository.

    Attributes:
        first: The small file that tells what it holds; without it nothing else is fetched.
        fetched, left_out: Patterns of names.
        required: Files, of which none may be missing.
        lacking: What a repository without `first` is, as the end of a sentence.
    """

    first: str
    fetched: tuple[str, ...]
    lacking: str
    required: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


OF_AMODAL = Contents(
    "spec.json",
    FETCHED,
    "is not a model of amodal: it has no spec.json. Push one by `model.push_to_hub`.",
    REQUIRED,
)
OF_TRANSFORMERS = Contents(
    "config.json",
    ("*.json", "*.safetensors", "*.txt"),
    "is not a model of transformers: it has no config.json.",
    # the same weights for other engines
    left_out=("onnx/*", "openvino/*", "coreml/*"),
)


def is_repo_id(name: str) -> bool:
    """Whether a text may name a repository: OWNER/NAME, or NAME alone."""
    return bool(REPO_ID.fullmatch(name)) and not name.startswith(".")


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    contents: Contents = OF_AMODAL,
) -> Path:
    """Fetch a model into the cache of huggingface_hub.

    Args:
        repo_id: `OWNER/NAME`.
        revision: A branch, a tag or a commit; the main branch if None.
        token: Of a private repository; True or None for that of `hf auth login`, False for none.
        cache_dir: In place of the usual cache.
        local_files_only: Ask nobody and take what the cache holds.
        contents: What the repository holds.

    Returns:
        The folder, in the cache.

    Raises:
        AmodalError: If there is no such repository or revision, if it holds something else, or if
            the Hub cannot be reached and the cache does not hold it.
    """
    api = _api(token)
    with _explained(repo_id, revision, contents):
        if not local_files_only and (reason := _unreachable(api, repo_id, revision, contents)):
            if not _is_cached(api, repo_id, revision, cache_dir, contents):
                raise AmodalError(
                    f"{_at(repo_id, revision)} is not in the cache, and {_hub()} cannot be "
                    f"reached: {reason}. Connect and retry, or give a folder."
                )
            local_files_only = True
        # The small file first: a repository of something else is refused before its weights come.
        spec = api.hf_hub_download(
            repo_id,
            contents.first,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        # All files of one commit, even if somebody pushes in between.
        folder = Path(spec).parent
        api.snapshot_download(
            repo_id,
            revision=folder.name,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=list(contents.fetched),
            ignore_patterns=list(contents.left_out) or None,
        )
    if missing := [name for name in contents.required if not (folder / name).exists()]:
        raise AmodalError(
            f"{' and '.join(missing)} of {repo_id} is neither in the cache nor in the repository. "
            "Load it once while the Hub can be reached, or push the model anew."
        )
    return folder


def model_folder(name: str) -> Path:
    """The folder of a model of transformers.

    Args:
        name: A folder, or OWNER/NAME on the Hugging Face Hub, of which JSON, word lists and
            safetensors come into the Hub's cache. What exists as a folder is a folder; what is in
            the cache is taken from there when the Hub cannot be reached.

    Raises:
        AmodalError: If there is neither.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        return folder
    if "/" not in name or not is_repo_id(name):
        raise AmodalError(
            f"there is no directory {folder}; expected one with a model of transformers, or "
            "OWNER/NAME of the Hugging Face Hub"
        )
    try:
        return download(name, contents=OF_TRANSFORMERS)
    except AmodalError as error:
        raise AmodalError(f"there is no directory {folder}, and {error}") from error


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload the model",
) -> str:
    """Push the files of a model, and make the repository if there is none.

    Args:
        folder: As `amodal.Model.save_pretrained` wrote it.
        repo_id: `OWNER/NAME`.
        private: Of a repository that is made; None for the owner's default.
        token: With the right to write; True or None for that of `hf auth login`.
        revision: The branch; the main one if None.
        commit_message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        AmodalError: If the Hub cannot be reached, or refuses.
    """
    api = _api(token)
    with _explained(repo_id, revision):
        made = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=made,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            allow_patterns=list(PUSHED),
        )
    return str(commit.commit_url)


def _api(token: str | bool | None) -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as e:
        raise AmodalError(
            "models on the Hugging Face Hub need huggingface_hub: pip install 'amodal[hub]'"
        ) from e
    return HfApi(token=token, library_name="amodal")


@contextmanager
def _explained(
    repo_id: str, revision: str | None, contents: Contents = OF_AMODAL
) -> Iterator[None]:
    """Errors of the client as one sentence that says what to do."""
    from huggingface_hub import errors

    hub = _hub()
    try:
        yield
    except AmodalError:
        raise
    except errors.RepositoryNotFoundError as e:  # also what a private one says to strangers
        raise AmodalError(
            f"there is no model {repo_id} on {hub}, or it is private. Check the name; for a "
            "private one, `hf auth login` or pass token."
        ) from e
    except errors.RevisionNotFoundError as e:
        raise AmodalError(f"{repo_id} has no revision {revision!r} on {hub}") from e
    except errors.LocalEntryNotFoundError as e:
        raise AmodalError(
            f"{_at(repo_id, revision)} is not in the cache, and {hub} was not to be asked. "
            "Load it without local_files_only, or give a folder."
        ) from e
    except errors.EntryNotFoundError as e:
        raise AmodalError(f"{repo_id} {contents.lacking}") from e
    except errors.HFValidationError as e:
        raise AmodalError(f"{repo_id!r} names no repository; expected OWNER/NAME") from e
    except errors.HfHubHTTPError as e:
        if e.response is None or e.response.status_code not in (401, 403):
            raise AmodalError(_failed(hub, repo_id, e)) from e
        raise AmodalError(
            f"{hub} does not allow this for {repo_id}: log in by `hf auth login`, or pass a token "
            "with the right to write"
        ) from e
    except Exception as e:  # the client's kinds, those of its HTTP library, and Rust's
        raise AmodalError(_failed(hub, repo_id, e)) from e


def _unreachable(api: HfApi, repo_id: str, revision: str | None, contents: Contents) -> str:
    """Why the Hub cannot be asked for a repository, "" if it answers.

    The client's downloads retry for most of a minute, and say so in the log; one request tells.

    Raises:
        HfHubHTTPError: The Hub answers that there is no such thing, or refuses.
    """
    from huggingface_hub import errors, hf_hub_url

    try:
        api.get_hf_file_metadata(
            url=hf_hub_url(repo_id, contents.first, revision=revision), timeout=PATIENCE
        )
    except errors.HFValidationError:
        raise
    except errors.HfHubHTTPError as e:
        if e.response is None or e.response.status_code < 500:
            raise
        return _first_line(e)
    except Exception as e:  # those of the client's HTTP library, which differ between versions
        return _first_line(e)
    return ""


def check_weights(repo_id: str, name: str, instead: str) -> None:
    """Find out at once whether another library can have the weights of a repository. Its own
    requests retry for most of a minute, and end in an error that names no remedy.

    Args:
        repo_id: `OWNER/NAME`.
        name: Of the model, for the error.
        instead: What to give in place of the name, as the end of the error.

    Raises:
        AmodalError: They are not in the cache, and the Hub cannot be reached.
    """
    try:
        from huggingface_hub import constants, errors
    except ImportError:
        return  # then the library asks elsewhere
    repo_id = repo_id.strip("/")
    snapshots = Path(constants.HF_HUB_CACHE, f"models--{repo_id.replace('/', '--')}", "snapshots")
    if any(file.suffix in WEIGHTS_SUFFIXES for file in snapshots.glob("*/*")):
        return
    try:
        reason = _unreachable(_api(None), repo_id, None, OF_TRANSFORMERS)
    except errors.HfHubHTTPError:
        return  # the Hub answers, and the library says what it lacks
    if reason:
        raise AmodalError(
            f"the weights of {name} are not in the cache, and {_hub()} cannot be reached: "
            f"{reason}. Connect and retry, or {instead}."
        )


def _is_cached(
    api: HfApi,
    repo_id: str,
    revision: str | None,
    cache_dir: str | Path | None,
    contents: Contents,
) -> bool:
    from huggingface_hub import errors

    try:
        api.hf_hub_download(
            repo_id, contents.first, revision=revision, cache_dir=cache_dir, local_files_only=True
        )
    except errors.LocalEntryNotFoundError:
        return False
    return True


def _hub() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _at(repo_id: str, revision: str | None) -> str:
    return f"{repo_id} at {revision}" if revision else repo_id


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _failed(hub: str, repo_id: str, error: Exception) -> str:
    return f"{hub} could not serve the request for {repo_id}: {_first_line(error)}"
