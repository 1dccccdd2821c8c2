"""`lit-ad data get`."""

import sys
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from lit_ad.commands.download import download, extract
from lit_ad.errors import UserError


class Published(NamedTuple):
    """An archive that a data set's owners offer to everybody."""

    url: str
    sha256: str  # measured by us on downloaded copies: the owners publish none
    licence: str


SETS = {  # keys: the name of the source class that reads the data set
    "BTAD": Published(
        "https://avires.dimi.uniud.it/papers/btad/btad.zip",
        "461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
        "BTAD, by beanTech srl and the University of Udine (Mishra et al., ISIE 2021), is under CC BY-SA 4.0: name its "
        "authors, and share what you make of it under the same licence. https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "VisA": Published(
        "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        "VisA, by Amazon (Zou et al., ECCV 2022), is under CC BY 4.0: name its authors. "
        "https://creativecommons.org/licenses/by/4.0/",
    ),
}
ELSEWHERE = {  # behind a form, at an address that changes, or without a checksum known to us
    "KolektorSDD": "https://www.vicos.si/resources/kolektorsdd/",
    "KolektorSDD2": "https://www.vicos.si/resources/kolektorsdd2/",
    "MPDD": "https://github.com/stepanje/MPDD",
    "MVTec": "https://www.mvtec.com/company/research/datasets/mvtec-ad",
    "MVTecAD2": "https://www.mvtec.com/company/research/datasets/mvtec-ad-2",
    "MVTecLOCO": "https://www.mvtec.com/company/research/datasets/mvtec-loco",
    "RealIAD": "https://realiad4ad.github.io/Real-IAD/",
}


def data_get(name: str, /, root: Path, accept_licence: bool = False) -> None:
    """Download a data set into ROOT/NAME, from the address of its owners.

    The licence is shown first. The same command again continues a broken download.

    Args:
        name: BTAD or VisA. For other data sets, the command prints the address of their owners.
        root: The folder of your data sets.
        accept_licence: Do not ask whether you accept the licence; it is printed anyway.

    Raises:
        UserError: The data set is not offered here, its licence is not accepted, or the download fails.
    """
    names = {known.lower(): known for known in (*SETS, *ELSEWHERE)}
    known = names.get(name.lower())
    if known in ELSEWHERE:
        raise UserError(f"lit-ad cannot download {known}: get it from its owners at {ELSEWHERE[known]}")
    if known is None:
        raise UserError(f"there is no data set {name!r}: give one of {', '.join(SETS)}")
    get(known, SETS[known], root, accept_licence)


def get(name: str, published: Published, root: Path, accept_licence: bool) -> None:
    """Download a data set into ROOT/NAME, if its licence is accepted. Raises UserError if it is not, or on failure."""
    target = root / name
    if target.exists():
        print(f"{target} exists already")
        return
    print(published.licence)
    if not accept_licence and not _ask_to_agree():
        raise UserError(f"{name} was not downloaded: its licence was not accepted (--accept-licence)")
    archive = root / published.url.rpartition("/")[2]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock", timeout=0):
            download(published.url, archive, published.sha256)
            print(f"extracting {archive}")
            extract(archive, target)
    except Timeout as error:
        raise UserError(f"another process is downloading {name} to {root}: wait for it") from error
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error}") from error
    print(f"{target} is ready: --data.source {name} --data.source.root {target}. You may remove {archive}.")


def _ask_to_agree() -> bool:
    """Ask at the terminal whether the licence is accepted. Without a terminal the answer is no."""
    return sys.stdin.isatty() and input("Accept this licence? [y/N] ").strip().lower() in ("y", "yes")
