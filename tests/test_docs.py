"""README.md and docs/ match the code: their commands parse, their links work, and the files that they name exist."""

import ast
import re
import shlex
import sys
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lit_ad import data, methods
from lit_ad.commands.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)*)`")  # within a paragraph, also over a line's end


def typed(text: str) -> list[list[str]]:
    """Return the commands on a page, in blocks and in sentences, split into words as a shell does, without comments."""
    lines = [code.replace("\n", " ") for code in CODE.findall(FENCED.sub("", text))]
    for language, block in FENCED.findall(text):
        lines += [] if language else block.replace("\\\n", " ").splitlines()
    return [words for line in lines if re.match(r"(lit-ad|sbatch|make|python) ", line) and (words := split(line))]


def split(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def command_name(words: list[str]) -> str:
    """Return the name of the command in a list of words: one word, or two."""
    return next(name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS)


def commands() -> list[tuple[str, list[str]]]:
    """Return, for each page, the words after `lit-ad`, or after the name of a Slurm script, which passes them on."""
    found = []
    for page, path in PAGES.items():
        for program, *words in typed(path.read_text()):
            if program == "sbatch":
                script, *words = words
                words = ["benchmark" if "benchmark" in script else "fit", *words]
            if program in ("lit-ad", "sbatch") and (len(words) > 1 or words == ["cache"]):  # else it is only a name
                found.append((page, words))
    return found


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else None)
def test_commands_parse(
    page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_that_it_parses(page, words, tmp_path, monkeypatch, capsys)


def check_that_it_parses(
    page: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: Path = ROOT / "configs/stfpm.yaml",
) -> None:
    """Have lit-ad parse what follows its name on a page, in an empty folder with the files that the pages name. RUN has
    the settings of `config`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    for name in ("RUN/config.yaml", "my.yaml"):  # a run's own, and a reader's
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(config.read_text())
    for name in ("checkpoints/best.ckpt", "export/stfpm-fp32.onnx"):
        (tmp_path / "RUN" / name).parent.mkdir()
        (tmp_path / "RUN" / name).touch()
    for example in examples():
        (tmp_path / example.split()[1]).write_text(example)
    for place, word in enumerate(words):
        if word == "...":  # a config of the reader's choice, or a folder
            words[place] = "configs/stfpm.yaml" if words[place - 1] == "--config" else "FOLDER"
    command, expected = COMMANDS[command_name(words)], "parsed"
    if words[0] == "predict" and ".onnx" in words[1]:  # a Detector's, which has keys of its own
        words, expected = [*words, "--help"], "usage: lit-ad predict "
    elif command.lightning:
        expected = "class_path: "
        words = [*words, *([] if "--print_config" in words else ["--print_config"])]
    else:
        module, function = command.function.rsplit(".", 1)
        work = getattr(room := import_module(f"lit_ad.{module}"), function)
        parsed = wraps(work)(lambda *_, **__: print("parsed"))  # its signature makes the command's options
        monkeypatch.setattr(room, function, parsed)
    monkeypatch.setattr(sys, "argv", ["lit-ad", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    stop: Any = None
    try:
        main()
    except SystemExit as end_of_it:
        stop = end_of_it.code
    printed = capsys.readouterr().out
    assert not stop, f"{page}: lit-ad {' '.join(words)}: {stop}"
    assert expected in printed


def examples() -> list[str]:
    """Return the Python files that pages ask their readers to write."""
    blocks = [block for path in PAGES.values() for language, block in FENCED.findall(path.read_text())]
    return [block for block in blocks if re.match(r"# \w+\.py\n", block)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = FENCED.sub("", PAGES[page].read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if not re.match(r"https?://", link):
            name, _, anchor = link.partition("#")
            target = (PAGES[page].parent / name).resolve() if name else PAGES[page]
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES)
def test_files_and_targets_that_a_page_names_exist(page: str) -> None:
    """They are files of the repository, where NAME stands for any name, and targets of make."""
    text = PAGES[page].read_text()
    for name in re.findall(r"(?<![\w./])(?:configs|benchmarks|tests|notebooks|lit_ad)/[\w./-]*\w", text):
        assert any(ROOT.glob(name.replace("NAME", "*"))), name
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {words[1] for words in typed(text) if words[0] == "make"} <= set(targets)


@pytest.mark.parametrize("page", PAGES)
def test_python_names_of_a_page_exist(page: str) -> None:
    text = PAGES[page].read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"\blit_ad(?:\.\w+)+", text))):
        assert exists(name), f"{page} names {name}"


def exists(name: str) -> bool:
    """Return whether a name with dots leads to a module or to an attribute of one."""
    parts, there = name.split("."), None
    for number, part in enumerate(parts, 1):
        if not hasattr(there, part):
            try:
                there = import_module(".".join(parts[:number]))
            except ModuleNotFoundError:
                return False
        else:
            there = getattr(there, part)
    return True


def test_every_page_is_found_from_the_readme() -> None:
    assert set(PAGES) - {"README.md"} <= set(re.findall(r"\]\(([^)#\s]+)", PAGES["README.md"].read_text()))


def test_every_method_config_and_source_has_its_row() -> None:
    readme, sources = PAGES["README.md"].read_text(), PAGES["docs/data.md"].read_text()
    rows = [line for line in readme.splitlines() if "](configs/" in line and line.startswith("|")]
    named = [re.search(r"\((configs/\w+\.yaml)\)", row)[1] for row in rows]  # type: ignore[index]
    classes = {re.search(r"class_path: lit_ad\.methods\.(\w+)", (ROOT / name).read_text())[1] for name in named}  # type: ignore[index]
    assert classes == set(methods.__all__)
    others = {"AnomalyDataModule", "Loading", "Sample", "Source", "Demo", "Images", "Photographs"}  # no user's data set
    others |= {"Corruption", "CutPaste", "Light", "Perlin", "Split"}
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", sources, re.M)) == set(data.__all__) - others


def test_the_readme_shows_a_verdict_at_once_and_no_empty_cell() -> None:
    """A reader sees a picture and three lines before the first heading; what was not measured is no cell."""
    readme = PAGES["README.md"].read_text()
    first_screen = readme.split("\n## ")[0]
    assert "![" in first_screen
    programs = [line.split()[0] for line in FENCED.findall(first_screen)[0][1].splitlines()]
    assert programs == ["pip", "lit-ad", "python"]
    rows = [line.strip("|").split("|") for line in readme.splitlines() if line.startswith("|")]
    assert rows and all(cell.strip() for row in rows for cell in row)


def test_every_command_is_on_a_page() -> None:
    assert {command_name(words) for _, words in commands()} >= set(COMMANDS) - {"validate"}


def test_a_clone_alone_has_everything_that_the_pages_use() -> None:
    """Only our machine has the folder of our own measurements. So only docs/results.md, benchmarks/ and
    docs/contributing.md, which explains it, may name it."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.yaml"), ROOT / "Makefile"]
    named = {path.name for path in pages if "../shared" in path.read_text(encoding="utf-8")}
    assert named <= {"results.md", "contributing.md"}


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda script: script.name)
def test_what_a_benchmark_imports_from_lit_ad_exists(script: Path) -> None:
    """Nobody runs all benchmarks after a change of names."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module and node.module.partition(".")[0] == "lit_ad":
            for name in node.names:
                assert exists(f"{node.module}.{name.name}"), f"{node.module} has no {name.name}"
