"""Hooks of the documents' site (mkdocs.yml): the README is its first page, and files outside docs/ that pages link to
are copied beside them."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(\.\./)?([^)#:\s]+)(#[^)]*)?\)")  # of Markdown, to a file of this repository


def on_files(files: Files, config: Any) -> Files:
    """Add the README as index.md, and the files outside docs/ that a page links to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [file.content_string for file in files if file.src_uri.endswith(".md")]
    files.append(File.generated(config, "index.md", content=LINK.sub(from_the_readme, readme)))
    linked = [match[3] for match in LINK.finditer(readme) if not match[3].startswith("docs/")]
    linked += [match[3] for page in pages for match in LINK.finditer(page) if match[2] and match[3] != "README.md"]
    done: set[str] = set()
    for name in linked:  # which grows
        if name in done:
            continue
        done.add(name)
        if (ROOT / name).is_file():  # what is none, the strict build tells by itself
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
            if name.endswith(".md"):  # what it links to lies beside it
                linked += [match[3] for match in LINK.finditer((ROOT / name).read_text(encoding="utf-8"))]
    return files


def from_the_readme(link: re.Match[str]) -> str:
    return f"{link[1]}{link[3].removeprefix('docs/')}{link[4] or ''})"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links of a page in docs/ to files outside it lead to their copies."""
    if page.file.src_uri == "index.md":
        return markdown
    return LINK.sub(
        lambda link: f"{link[1]}{'index.md' if link[3] == 'README.md' else link[3]}{link[4] or ''})", markdown
    )
