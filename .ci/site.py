"""Hooks of the documentation site (mkdocs.yml).

They make the README the first page, and copy the files outside docs/ that pages link to.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(\.\./)?([^)#:\s]+)(#[^)]*)?\)")  # a Markdown link to a file of this repository


def on_files(files: Files, config: Any) -> Files:
    """Add the README as index.md, and the files outside docs/ that a page links to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [file.content_string for file in files if file.src_uri.endswith(".md")]
    files.append(File.generated(config, "index.md", content=LINK.sub(relink_readme, readme)))
    linked = [match[3] for match in LINK.finditer(readme) if not match[3].startswith("docs/")]
    linked += [match[3] for page in pages for match in LINK.finditer(page) if match[2] and match[3] != "README.md"]
    done: set[str] = set()
    for name in linked:  # the loop appends to this list
        if name in done:
            continue
        done.add(name)
        if (ROOT / name).is_file():  # mkdocs' strict build reports links to missing files
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
            if name.endswith(".md"):  # copy the files that this file links to, too
                linked += [match[3] for match in LINK.finditer((ROOT / name).read_text(encoding="utf-8"))]
    return files


def relink_readme(link: re.Match[str]) -> str:
    """Return a link of the README without docs/, because the site has the pages of docs/ at its top."""
    return f"{link[1]}{link[3].removeprefix('docs/')}{link[4] or ''})"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of a page to files outside docs/, so that they lead to the copies."""
    if page.file.src_uri == "index.md":
        return markdown
    return LINK.sub(
        lambda link: f"{link[1]}{'index.md' if link[3] == 'README.md' else link[3]}{link[4] or ''})", markdown
    )
