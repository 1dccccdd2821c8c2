"""Turn the parser's message about a wrong key or value into one plain line that names the key and the remedy."""

import ast
import inspect
import re
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from lightning.pytorch.callbacks import __all__ as CALLBACKS
from lightning.pytorch.loggers import __all__ as LOGGERS

import lit_ad.data
from lit_ad.data import __all__ as SOURCES
from lit_ad.image.view import View
from lit_ad.methods import __all__ as METHODS

_UNION = "Does not validate against any of the Union subtypes"
NOISE = (  # beginnings of lines that tell the user nothing
    *(_UNION, "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value"),
    *("Subclass types expect one of:", "a class path (str)", "a dict with"),
)
_OF_A_TYPE = ("Expected a", "Not of type", "Not a valid subclass")  # beginnings of the parser's sentences on a type
TYPE = r"(?:<class '\w+'>|typing\.Literal\[[^]]*\])"
_TYPES = {
    "str": "a text",
    "tuple": "a list",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "keys with values",
}
_NO_SOURCE = "the data has no source: give --config FILE, or --data.source Folder (or MVTec, or another) with its keys"
_CONFIG_FIRST = "give --config FILE, such as configs/stfpm.yaml; single keys go after it, as --data.source.root FOLDER"

_USUAL = {  # other programs' names of options -> our keys
    **dict.fromkeys(("epochs", "trainer.epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("steps", "trainer.steps"), "trainer.max_steps"),
    **dict.fromkeys(("gpus", "trainer.gpus"), "trainer.devices"),
    **dict.fromkeys(("output", "output_dir"), "trainer.default_root_dir"),
    **dict.fromkeys(("root", "data.root"), "data.source.root"),
    "dataset": "data.source",
    **dict.fromkeys(("image_size", "data.image_size", "img_size", "imgsz"), "model.view.image_size"),
    **dict.fromkeys(("lr", "learning_rate"), "model.lr"),
    "seed": "seed_everything",
    "resume": "ckpt_path",
}
_OF_PREDICT = dict.fromkeys(("root", "data.root", "dataset", "images", "input"), "data.predict_path")
_OF_TRAINING = ("trainer.max_epochs", "trainer.max_steps", "model.lr")  # other commands accept them, to no effect
_USUAL_GROUPS = {"data": "data.source", "checkpoint": "ckpt_path"}  # groups to which users give a value -> our keys

# The parser's words -> the user's words. All are applied, one after the other.
_PATTERNS = (
    (r"Parser key \"(\w+)\": Unable to load config '(.*)' Parser key \"\1\": Unable to load config .*",
     r"\1 is \2, but it takes keys, or a YAML file of them"),
    (r"Parser key \"config\": File does not exist: (.*)", r"there is no config file \1"),
    (r"Subcommand '\w+' does not accept option '([\w.]+)'", r"there is no key \1"),
    (r"Group '(\w+)' does not accept option '([\w.]+)'", r"there is no key \2 in \1"),
    (r"Option '([\w.]+)' is not accepted", r"there is no key \1"),
    (r"Parser key \"([\w.]+)\": there is no option --(?:(\S+)\.)?(\w+)=.*", lambda m: f"there is no key {m[3]} in "
     + ".".join(part for part in m.groups()[:2] if part)),
    (r"unrecognized arguments: (-\S+).*", r"there is no option \1"),
    (r"unrecognized arguments: (.*)", r"\1 belongs to no option"),
    (r".*Expected an instantiatable class, but lit_ad\.[\w.]+ is abstract", _NO_SOURCE),
    (r"Parser key \"([\w.]+)\": .*Expected a dot import path string: (\S+)(?: Expected a .*)?",
     r"\1 is \2, but there is no such class"),
    (r"Parser key \"([\w.]+)\": there is no key (\S+)(?: in (\w+))?", lambda m: f"there is no key {m[2]} in {m[1]}"
     + (f".{m[3]}" if m[3] else "")),
    (r"([\w.]+) is NestedArg\(key='([\w.]+)'.*\), but it must be ([\w ]+)", r"\1 is \3, and has no key \2"),
    (r"Parser key \"([\w.]+)\": ([\w.]+) is (.*, (?:but it must be|and has no key) .*)", r"\1.\2 is \3"),
    (r"Parser key \"([\w.]+)\": ", r"\1: "),
)  # fmt: skip


def explain_error(message: str, keys: Sequence[str], words: Sequence[str] = ()) -> str:
    """Return the parser's message as one plain line, without the types that it tried, and with the nearest known name.

    Args:
        message: The parser's message, of one line or several.
        keys: All keys of the parser.
        words: The words that were typed.
    """
    text = " ".join(_select_useful_lines(message))
    text, hinted, hint = text.partition(". Did you mean ")  # a hint of the source or method itself
    if needed := re.fullmatch(r"the following arguments are required: (.*)", text):
        return _explain_missing(needed[1].split(", "), words)
    if wrong := re.search(r"Parser key \"([\w.]+)\": Expected a typing\.Literal\[(.*)\]\. Got value: (.*)$", text):
        return f"{wrong[1]} is {wrong[3]}, but it must be one of {wrong[2].replace(chr(39), '')}"
    if wrong := re.search(rf"Parser key \"([\w.]+)\":((?: Expected a {TYPE})+)(?:\. Got value: (.*))?$", text):
        given = re.search(r"Given value: (.*)", message)
        value, types = wrong[3] or (given[1] if given else "not"), re.findall(r"<class '(\w+)'>|'(\w[\w-]*)'", wrong[2])
        example = f", such as '[{value}]'" if types in ([("list", "")], [("tuple", "")]) else ""
        if given and (name := _find_key(wrong[3], given[1])):
            return f"{wrong[1]}.{name} is {value}, but it must be {_TYPES.get(types[-1][0], types[-1][0])}"
        names = " or ".join(_TYPES.get(name, name) or literal for name, literal in types)
        return f"{wrong[1]} is {value}, but it must be {names}{example}"
    for pattern, plain in _PATTERNS:
        text = re.sub(pattern, plain, text)
    return text + (f"{hinted}{hint}" if hinted else _suggest_name(text, keys, next(iter(words), "")))


def _find_key(value: str | None, given: str) -> str | None:
    """Return the key of a dict, which is given as text, that has a value; None if there is no dict or no such key."""
    try:
        entries = ast.literal_eval(given)
    except (SyntaxError, ValueError):
        return None
    names = [name for name, each in entries.items() if str(each) == value] if isinstance(entries, dict) else []
    return str(names[0]) if names else None


def _select_useful_lines(message: str) -> list[str]:
    """Return the useful lines of a parser's message, each once.

    A value may have several types. For each type, the parser adds one error line. Keep the line with a hint "Did you
    mean"; otherwise keep the first line about a part of the value; if there is none, keep all lines.
    """
    message = re.sub(r"(Problem with given class_path .*:)\n\s*(?:- )?", r"\1 ", message)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    lines = [line for line in dict.fromkeys(lines) if line and not line.startswith(NOISE)]
    ours = [line for line in lines[1:] if not line.startswith(_OF_A_TYPE)] if _UNION in message else []
    return [*lines[:1], *(sorted(ours, key=lambda line: "Did you mean" not in line)[:1] or lines[1:])]


def _suggest_name(text: str, keys: Sequence[str], command: str) -> str:
    """Return ". Did you mean NAME?" if a word of a message is nearly the name of a key, method or source; else "".

    `command` is the first typed word, such as fit.
    """
    if wrong := re.match(r"trainer\.(?:logger|callbacks) is (\w+), but there is no such class", text):
        lower = {name.lower(): name for name in (*LOGGERS, *CALLBACKS)}
        short = [name for name in lower if name.startswith(wrong[1].lower())]  # wandb, tensorboard, csv
        near = short[:1] or get_close_matches(wrong[1].lower(), lower, n=1, cutoff=0.8)
        return f". Did you mean {lower[near[0]]}?" if near else ""
    sources = [name for name in SOURCES if name != "Source"]
    unknown = re.match(r"there is no (?:key|option) -*([\w.]+)", text)
    known = [*keys, "model", "data", "trainer"]
    if "there is no option" not in text:
        known += [*METHODS, *sources, *(field.name for field in fields(View))]
    if group := re.match(r"(\w+) is .*, but it takes keys, or", text):
        key = _USUAL_GROUPS.get(group[1], f"{group[1]}.enabled")
        return f". Did you mean {key}?" if key in keys else ""
    names = {**_USUAL, **_OF_PREDICT} if command == "predict" else _USUAL
    usual = names.get(unknown[1]) if unknown else None
    if usual in _OF_TRAINING and command in ("validate", "test", "predict"):
        return ""
    classes = tuple(f"{key}." for key in ("model", "data.source") if key in keys)  # their own keys are not in `keys`
    if usual and (usual in keys or usual.startswith(classes)):
        return f". Did you mean {usual}?"
    if unknown and not get_close_matches(unknown[1], keys, n=1, cutoff=0.9):  # else the key is mistyped
        last = unknown[1].rpartition(".")[2]
        # It belongs to another group. An inner parser, which says "key", knows only the model's groups, such as view.
        elsewhere = [key for key in keys if key.endswith(f".{last}") and ("option" in text or key == f"view.{last}")]
        if elsewhere:
            return f". Did you mean {min(elsewhere, key=lambda key: key.count('.'))}?"
    small = {name.lower(): name for name in known}
    for word in re.findall(r"[A-Za-z_][\w.]{2,}", re.sub(r"\(in .*\)", "", text)):
        for part in (word, word.partition(".")[0]):
            near = [] if part in known or len(part) < 3 else get_close_matches(part.lower(), small, n=1, cutoff=0.8)
            if near:
                return f". Did you mean {small[near[0]]}?"
    return ""


def explain_binary_file(words: Sequence[str]) -> str:
    """Return a message on the typed option whose value is a file that is no text, where the parser expects keys."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        try:
            if name.startswith("-"):
                Path(value if equals else following).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return f"{name.lstrip('-')} is {value or following}, but it takes keys, or a YAML file of them"
        except (OSError, ValueError):  # no file
            continue
    return "a file is no text, where a YAML file of keys is expected"


def _explain_missing(names: Sequence[str], words: Sequence[str]) -> str:
    """Return a line that says which arguments are missing, and how to give them. `words`: the typed words."""
    for source in SOURCES:
        kind = getattr(lit_ad.data, source)
        if any(word.partition("=")[2] == source or word == source or word.endswith(f".{source}") for word in words):
            parameters = inspect.signature(kind).parameters
            if all(name in parameters for name in names):
                return f"data.source {source} needs {', '.join(f'--data.source.{name}' for name in names)}"
    short = [re.sub(r"^(fit|validate|test|predict)\.", "", name) for name in names]
    if any(name in ("model", "data.source", "data") for name in short):
        return f"{' and '.join(short)} {'are' if len(short) > 1 else 'is'} missing: {_CONFIG_FIRST}"
    return f"missing: {', '.join(short)}"
