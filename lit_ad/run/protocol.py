"""`lit-ad protocol --config FILE`: each class of a data set in turn, trained and tested, and the table of them.

A class is one `lit-ad fit` in a process of its own, in OUTPUT/CLASS. What is finished is not done again: the same
command goes on where it was interrupted. What follows `--` is given to every `lit-ad fit`.
"""

import json
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser

from lit_ad.data.one_class import Download, OneClass, classes, prepare
from lit_ad.errors import UserError
from lit_ad.files import atomic_write

Row = dict[str, float]


def protocol(
    run_config: Path,
    root: Path,
    output: Path,
    mode: Literal["unimodal", "multimodal"] = "unimodal",
    only: list[str] | None = None,
    download: Download | None = None,
    index: int | None = None,
    arguments: list[str] | None = None,
) -> None:
    """Train and test a method on each class, and write OUTPUT/results.json and OUTPUT/results.md.

    Args:
        run_config: The method's configuration, as for `lit-ad fit`; its data.source is replaced.
        root: Holds train/CLASS and test/CLASS.
        output: Where the runs and the table go.
        mode: One class is nominal, the others anomalous (unimodal), or the other way round (multimodal).
        only: These classes; all of them if not given.
        download: Make `root` from this data set of torchvision's, if it is not there.
        index: Only the class of this number, from 0: for an array of jobs that share `output`.
        arguments: More arguments for each `lit-ad fit`, such as --trainer.max_epochs=3.
    """
    if download:
        prepare(root, download)
    known = classes(root)
    unknown = [name for name in only or [] if name not in known]
    if unknown:
        raise UserError(f"no class {', '.join(unknown)} in {root}: there are {', '.join(known)}")
    names = only or known
    source_of_all = OneClass(root, normal=known[:1]) if mode == "unimodal" else OneClass(root, anomalous=known[:1])
    tasks = source_of_all.tasks()
    if index is not None and not 0 <= index < len(names):
        raise UserError(f"index must lie in 0 to {len(names) - 1} for {len(names)} classes, not {index}")
    settings = {
        "run_config": yaml.safe_load(run_config.read_text()),
        "root": str(root.absolute()),
        "mode": mode,
        "arguments": arguments,
    }
    claim(output, settings)
    for name in names if index is None else [names[index]]:
        home = output / name
        place = f"[{names.index(name) + 1}/{len(names)}] {name}"
        if not (home / "metrics.json").is_file():
            print(f"{place}: {home}", flush=True)
            task = {"root": str(root.absolute()), **tasks[name]}
            source = {"class_path": "lit_ad.data.OneClass", "init_args": task}
            command = ["--config", str(run_config), "--data.source", json.dumps(source), *(arguments or [])]
            fit(home, command)
        write_table(output, names)
        print(f"{place}: image AUROC {read_row(home).get('image_auroc', float('nan')):.4f}", flush=True)
    print(f"The table is in {output / 'results.md'} and {output / 'results.json'}")


def claim(output: Path, settings: dict[str, Any]) -> None:
    """Results of different settings never share a table. UserError if `output` holds those of others."""
    record = output / "protocol.json"
    if record.is_file():
        earlier = json.loads(record.read_text())
        differ = [name for name in settings if earlier.get(name) != settings[name]]
        if differ:
            raise UserError(
                f"{output} holds results of another protocol (other {', '.join(differ)}): give another output, or "
                "remove it"
            )
        return
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")


def fit(home: Path, command: list[str]) -> None:
    """Train and test in `home`, from its last checkpoint if there is one.

    Raises:
        UserError: The run failed.
    """
    last = home / "checkpoints" / "last.ckpt"
    command = [*command, "--trainer.default_root_dir", str(home.absolute())]
    command += ["--ckpt_path", str(last.absolute())] if last.is_file() else []
    done = subprocess.run([sys.executable, "-m", "lit_ad", "fit", *command], check=False)
    if done.returncode or not (home / "metrics.json").is_file():
        raise UserError(
            f"the run in {home} did not finish (exit code {done.returncode}, see above); what was trained is kept, and "
            "the same command goes on from there"
        )


def read_row(home: Path) -> Row:
    """The metrics of all images of a run, without those it does not have."""
    row = json.loads((home / "metrics.json").read_text())["rows"]["pooled"]
    return {name: value for name, value in row.items() if value is not None}


def write_table(output: Path, names: list[str]) -> None:
    """OUTPUT/results.json and results.md from the classes finished so far, by any process."""
    rows = {name: read_row(output / name) for name in names if (output / name / "metrics.json").is_file()}
    shared = [key for key in next(iter(rows.values())) if all(key in row for row in rows.values())]
    mean = {key: statistics.fmean(row[key] for row in rows.values()) for key in shared}
    sd = {key: statistics.stdev(row[key] for row in rows.values()) for key in shared} if len(rows) > 1 else {}
    missing = [name for name in names if name not in rows]
    with atomic_write(output / "results.json") as temporary:
        report = {"classes": rows, "mean": mean, "sd": sd, "missing": missing}
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    with atomic_write(output / "results.md") as temporary:
        temporary.write_text(markdown(rows, mean, sd, missing))


def markdown(rows: dict[str, Row], mean: Row, sd: Row, missing: list[str]) -> str:
    """The AUROCs of each class, their mean and, of several, their standard deviation; every metric is in the JSON."""
    columns = [key for key in mean if "auroc" in key and not key.endswith(("_bound", "_low", "_high"))]
    lines = ["| class | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    # A class may be called mean, too: bold ones are no classes.
    for name, row in [*rows.items(), ("**mean**", mean), *([("**sd**", sd)] if sd else [])]:
        lines.append(f"| {name} | " + " | ".join(f"{row[key]:.4f}" for key in columns) + " |")
    if missing:
        lines += ["", f"Not finished: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main(args: list[str]) -> None:
    """The command, given what follows `lit-ad protocol`."""
    own, passed = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
    parser = ArgumentParser(prog="lit-ad protocol", description=__doc__)
    parser.add_argument("--config", action="config", help="A YAML file of these arguments.")
    parser.add_function_arguments(protocol)
    given = parser.parse_args(own).as_dict()
    given.pop("config")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run it waits for ends with it
    protocol(**{**given, "arguments": [*(given["arguments"] or []), *passed]})
