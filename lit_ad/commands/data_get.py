"""`lit-ad data get NAME --root DIR`: download a data set whose licence allows it, at the address of its owners."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from lit_ad.commands.download import download, extract
from lit_ad.errors import UserError


class Published(NamedTuple):
    """An archive that a data set's owners offer to everybody."""

    url: str
    sha256: str  # measured on copies of it: the owners publish none
    licence: str


SETS = {  # by the name of the source that reads it
    "BTAD": Published(
        "https://avires.dimi.uniud.it/papers/btad/btad.zip",
        "461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
        "BTAD, by beanTech srl and the University of Udine (Mishra et al., ISIE 2021), is under CC BY-SA 4.0: name its "
        "authors, and share what you make of it alike. https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "VisA": Published(
        "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        "VisA, by Amazon (Zou et al., ECCV 2022), is under CC BY 4.0: name its authors. "
        "https://creativecommons.org/licenses/by/4.0/",
    ),
}
ELSEWHERE = {  # given after a form or on a share whose address changes, or of unknown checksum
    "KolektorSDD": "https://www.vicos.si/resources/kolektorsdd/",
    "KolektorSDD2": "https://www.vicos.si/resources/kolektorsdd2/",
    "MPDD": "https://github.com/stepanje/MPDD",
    "MVTec": "https://www.mvtec.com/company/research/datasets/mvtec-ad",
    "MVTecAD2": "https://www.mvtec.com/company/research/datasets/mvtec-ad-2",
    "MVTecLOCO": "https://www.mvtec.com/company/research/datasets/mvtec-loco",
    "RealIAD": "https://realiad4ad.github.io/Real-IAD/",
}


def get(name: str, published: Published, root: Path, accepted: bool) -> Path:
    """Have a data set in ROOT/NAME, its licence shown first. Raises UserError if it is not accepted, or fails."""
    target = root / name
    if target.exists():
        print(f"{target} is there already")
        return target
    print(published.licence)
    if not accepted and not agreed():
        raise UserError(f"{name} was not downloaded: its licence was not accepted (--accept-licence)")
    archive = root / published.url.rpartition("/")[2]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock", timeout=0):
            download(published.url, archive, published.sha256)
            print(f"extracting {archive}")
            extract(archive, target)
    except Timeout as error:
        raise UserError(f"another process is getting {name} into {root}: wait for it") from error
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error}") from error
    print(f"{target} is there: --data.source {name} --data.source.root {target}. {archive} is no longer needed.")
    return target


def agreed() -> bool:
    """Ask at the terminal; where there is none, nobody agreed."""
    return sys.stdin.isatty() and input("Accept this licence? [y/N] ").strip().lower() in ("y", "yes")


def main(arguments: list[str]) -> None:
    """The command, given what follows `lit-ad data get`."""
    parser = argparse.ArgumentParser(
        prog="lit-ad data get",
        description="Download a data set into ROOT/NAME; a broken download goes on where it ended.",
    )
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(SETS)}; others are to be had from their owners")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="where data sets lie")
    parser.add_argument("--accept-licence", action="store_true", help="do not ask; the licence is printed anyway")
    given = parser.parse_args(arguments)
    named = {name.lower(): name for name in (*SETS, *ELSEWHERE)}.get(given.name.lower())
    if named in ELSEWHERE:
        raise UserError(f"{named} is not downloaded here: its owners offer it at {ELSEWHERE[named]}")
    if named is None:
        raise UserError(f"no data set {given.name!r}: there are {', '.join(SETS)}")
    get(named, SETS[named], given.root.expanduser(), given.accept_licence)
