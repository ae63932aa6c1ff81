"""Pages of the site that are not in docs/: the front page, pages of the repository, and notebooks.

MkDocs calls it (`hooks` in mkdocs.yml). The front page is README.md. Whatever a page links to
outside docs/ is copied below `repository/`, links of its own included, and links lead there; a
folder stands for its README.md. A notebook is a page that `scripts/notebooks.py` wrote from what
it printed and drew, so that comes first.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "build" / "notebooks"
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^( *```.*?^ *```)", re.M | re.S)
CODE = re.compile(r"(`[^`\n]*`)")
START = ("CHANGELOG.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md")


def place(path: str) -> str:
    """Where a file of the repository stands in the site: docs/x.md -> x.md."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def target(link: str, page: str) -> str:
    """The file of the repository that a link of a page leads to, "" for none.

    Args:
        link: As it stands in the page, without an anchor.
        page: The page, from the root of the repository.
    """
    if "://" in link or link.startswith(("mailto:", "/")):
        return ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if (ROOT / path / "README.md").is_file():
        path += "/README.md"
    return path if (ROOT / path).is_file() else ""


def prose(text: str) -> list[tuple[bool, str]]:
    """A page in pieces: (whether it may hold links, text)."""
    pieces = []
    for number, part in enumerate(FENCE.split(text)):
        if number % 2:
            pieces.append((False, part))
        else:
            pieces += [(n % 2 == 0, piece) for n, piece in enumerate(CODE.split(part))]
    return pieces


def links(text: str) -> list[str]:
    return [m[2] for is_prose, part in prose(text) if is_prose for m in LINK.finditer(part)]


def relinked(text: str, page: str) -> str:
    """A page of the repository with links between places of the site."""

    def link(match: re.Match[str]) -> str:
        path = target(match[2], page)
        if not path:
            return match[0]
        there = posixpath.relpath(place(path), posixpath.dirname(place(page)) or ".")
        return f"{match[1]}{there}{match[3] or ''}{match[4]}"

    return "".join(LINK.sub(link, part) if is_prose else part for is_prose, part in prose(text))


def outside() -> list[str]:
    """Files outside docs/ that pages lead to, of any number of steps."""
    waiting = [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "docs").rglob("*.md"))]
    waiting += ["README.md", *START]
    found, seen = [*START], {*waiting}
    while waiting:
        page = waiting.pop()
        for link in links((ROOT / page).read_text(encoding="utf-8")):
            path = target(link, page)
            if path and path not in seen and not path.startswith("docs/"):
                seen.add(path)
                found.append(path)
                waiting += [path] if path.endswith(".md") else []
    return sorted({*found})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in ("README.md", *outside()):
        if path.endswith(".md"):
            text = relinked((ROOT / path).read_text(encoding="utf-8"), path)
            files.append(File.generated(config, place(path), content=text))
        else:
            files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
    made = sorted(NOTEBOOKS.rglob("*")) if NOTEBOOKS.is_dir() else []
    if not any(file.suffix == ".md" for file in made):
        raise PluginError(f"no notebooks in {NOTEBOOKS}: run python scripts/notebooks.py before")
    for file in made:
        if file.is_file():
            uri = f"tutorials/{file.relative_to(NOTEBOOKS).as_posix()}"
            files.append(File.generated(config, uri, abs_src_path=os.fspath(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = page.file.src_uri
    if (Path(config.docs_dir) / source).is_file():
        return relinked(markdown, f"docs/{source}")
    return markdown
