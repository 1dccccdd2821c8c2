from collections import Counter
from pathlib import Path

import pytest

from lit_ad.data import MPDD
from lit_ad.data.sources.source import check_samples
from lit_ad.errors import UserError
from tests.data.conftest import Write

NAMES = ("bracket_black", "tubes")


@pytest.fixture
def mpdd(tmp_path: Path, write: Write, write_mask: Write) -> Path:
    for category in NAMES:
        root = f"MPDD/MPDD/{category}"
        for i in range(3):
            write(f"{root}/train/good/{i:03}.png")
        write(f"{root}/test/good/000.png")
        write(f"{root}/test/scratches/000.png")
        write_mask(f"{root}/ground_truth/scratches/000_mask.png")
    return tmp_path / "MPDD"


def test_the_root_may_be_either_of_the_nested_folders(mpdd: Path) -> None:
    samples = MPDD(mpdd).samples()
    check_samples(samples)
    assert Counter((s.category, s.split, s.defect, s.mask is not None) for s in samples) == {
        (category, *kind): count
        for category in NAMES
        for kind, count in {
            ("train", "good", False): 3,
            ("test", "good", False): 1,
            ("test", "scratches", True): 1,
        }.items()
    }
    assert MPDD(mpdd / "MPDD").samples() == samples
    assert MPDD(mpdd / "MPDD" / "tubes").samples() == MPDD(mpdd, "tubes").samples()
    assert MPDD(mpdd).tasks() == {name: {"category": name} for name in NAMES}
    assert MPDD(mpdd).remarks() == []


def test_a_missing_category_and_a_wrong_root_are_refused(mpdd: Path) -> None:
    with pytest.raises(UserError, match=r"no category nut in .*MPDD/MPDD: there are bracket_black, tubes"):
        MPDD(mpdd, "nut").samples()
    with pytest.raises(UserError, match=r"no nominal image in .*: expected train/good"):
        MPDD(mpdd / "MPDD" / "tubes" / "test").samples()
