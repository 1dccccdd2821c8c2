"""A split says which images are for training, validation and test."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.data.sources.source import Source
from lit_ad.data.splits import (
    Split,
    Splits,
    assign_folds,
    count_folds,
    hold_out,
    list_splits,
    split_nominal,
    take_shots,
)
from lit_ad.errors import UserError
from lit_ad.image.view import View


def nominal(count: int, category: str = "") -> list[Sample]:
    return [Sample(Path(f"{category}/{i:03}.png"), 0, category=category) for i in range(count)]


class Listed(Source):
    """A source that lists given samples, and has no folder."""

    def __init__(self, *samples: Sample) -> None:
        self.listed = list(samples)

    def samples(self) -> list[Sample]:
        return self.listed


def test_a_seed_decides_the_held_out_images_of_each_category() -> None:
    samples = nominal(10, "a") + nominal(2, "b") + nominal(40, "c")
    train, val = split_nominal(samples, 0.2, 0)
    assert sorted(train + val, key=samples.index) == samples
    assert [sum(s.category == c for s in val) for c in "abc"] == [2, 1, 8]
    assert (train, val) == split_nominal(samples, 0.2, 0) and val != split_nominal(samples, 0.2, 1)[1]
    assert len(split_nominal(nominal(2), 0.99, 0)[0]) == 1


def test_the_held_out_images_of_seed_0_stay_the_same() -> None:
    """The published figures were measured with these image numbers."""
    held = [int(s.image.stem) for s in split_nominal(nominal(20), 0.2, 0)[1]]
    assert held == [2, 4, 6, 19]


@pytest.mark.parametrize("seed", range(5))
def test_images_of_one_item_are_held_out_together(seed: int) -> None:
    samples = [s._replace(item=f"part{i // 3}") for i, s in enumerate(nominal(30, "a"))] + nominal(10, "b")
    samples += [s._replace(item=f"part{i // 20}") for i, s in enumerate(nominal(40, "c"))]
    train, val = split_nominal(samples, 0.2, seed)
    assert sorted(train + val, key=samples.index) == samples
    assert not {(s.category, s.item) for s in train if s.item} & {(s.category, s.item) for s in val if s.item}
    assert [sum(s.category == c for s in val) for c in "abc"] == [6, 2, 20]


def test_one_item_cannot_be_split() -> None:
    samples = [sample._replace(item="part") for sample in nominal(5, "a")]
    with pytest.raises(UserError, match=r"category 'a' has one item to train on, part, but it takes two or more"):
        split_nominal(samples, 0.2, 0)


def test_too_few_nominal_images_are_refused() -> None:
    with pytest.raises(UserError, match="no nominal image to train on"):
        split_nominal([], 0.2, 0)
    for fraction in (0.0, 0.2):
        with pytest.raises(UserError, match="no nominal image to train on"):
            hold_out([Sample(Path("t.png"), 1, split="test")], fraction, 0)
    with pytest.raises(UserError, match=r"category 'b' has one nominal training image, b/000.png"):
        split_nominal(nominal(1, "b") + nominal(1, "c"), 0.2, 0)
    with pytest.raises(UserError, match=r"the data set has one nominal training image, /000.png"):
        split_nominal(nominal(1), 0.2, 0)


def test_a_single_image_of_a_category_is_for_training_where_another_category_has_more() -> None:
    train, val = split_nominal(nominal(5, "a") + nominal(1, "b"), 0.2, 0)
    assert [s.category for s in train] == ["a"] * 4 + ["b"] and [s.category for s in val] == ["a"]
    train, val = split_nominal(nominal(1, "b") + nominal(5, "a"), 0.2, 0)
    assert [s.category for s in train] == ["b"] + ["a"] * 4 and [s.category for s in val] == ["a"]


def test_at_least_one_image_is_held_out_however_small_the_fraction_is() -> None:
    assert len(split_nominal(nominal(100), 1e-6, 0)[1]) == 1


def test_the_validation_images_of_a_source_are_held_out_instead_of_training_images() -> None:
    official = [Sample(Path(f"a/val/{i}.png"), 0, category="a", split="validation") for i in range(3)]
    a, b = nominal(10, "a"), nominal(10, "b")
    assert hold_out(a + official, 0.2, 0) == (a, official)
    # b has no validation images, so two training images of b are held out.
    train, val = hold_out(b + a + official, 0.2, 0)
    assert train == [s for s in b if s not in val] + a and len(train) == 18
    assert val == official + split_nominal(b, 0.2, 0)[1]
    assert hold_out(a, 0.2, 0) == split_nominal(a, 0.2, 0)
    with pytest.raises(UserError, match=r"category 'a' has validation images, but no nominal image to train on"):
        hold_out(b + official, 0.2, 0)
    with pytest.raises(UserError, match=r"category 'a' has validation images, but no nominal image to train on"):
        hold_out(official, 0.2, 0)


@pytest.mark.parametrize("seed", range(5))
def test_one_item_stays_for_training_however_large_the_held_out_share_is(seed: int) -> None:
    """One item has one image and the other has three. To hold out three images, both items would be needed if the small
    item comes first."""
    samples = [s._replace(item="large" if i else "small") for i, s in enumerate(nominal(4))]
    train, val = split_nominal(samples, 0.99, seed)
    assert len({s.item for s in train}) == len({s.item for s in val}) == 1


def test_a_source_and_a_seed_decide_the_splits(bottle: Path) -> None:
    splits = list_splits(MVTec(bottle), Split(0.3, 1))
    samples = MVTec(bottle).samples()
    assert (splits.train, splits.val) == split_nominal([s for s in samples if s.split == "train"], 0.3, 1)
    assert splits.test == [s for s in samples if s.split == "test"]
    assert splits == list_splits(MVTec(bottle), Split(0.3, 1)) != list_splits(MVTec(bottle), Split(0.3, 2))
    assert list(vars(Splits())) == ["train", "val", "test"]


def test_a_folder_that_does_not_exist_and_contradicting_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*absent: data.source.root is the folder that holds the"):
        list_splits(MVTec(tmp_path / "absent"))
    train = nominal(3)
    with pytest.raises(UserError, match=r"one image listed twice: /000.png, as train/good and as test/good"):
        list_splits(Listed(*train, train[0]._replace(split="test")))


def test_the_default_split_is_the_same_for_a_program_and_for_a_training(bottle: Path) -> None:
    """The default holds out a fifth with the seed 0. Another default would hold out other images than earlier runs."""
    source = MVTec(bottle)
    assert list_splits(source) == list_splits(source, Split(0.2, 0)) == AnomalyDataModule(source, View(32)).splits


@pytest.mark.parametrize(("folds", "count", "sizes"), [(3, 3, [4, 4, 4]), ("leave-one-out", 10, [2, 2, *[1] * 8])])
def test_each_category_is_spread_evenly_over_the_folds(folds: Any, count: int, sizes: list[int]) -> None:
    """There are 10 images of a, 2 of b and 1 of c. Each image lies in one fold, except the single image of c."""
    samples = nominal(10, "a") + nominal(2, "b") + nominal(1, "c")
    numbers = assign_folds(samples, folds, 0)
    assert count_folds(numbers) == count and numbers[-1] is None
    assert sorted(map(numbers.count, range(count)), reverse=True) == sorted(sizes, reverse=True)
    assert len({*numbers[10:12]}) == 2 and numbers != assign_folds(samples, folds, 1)


def test_the_folds_of_seed_0_stay_the_same() -> None:
    """A training with folds may be resumed by a later version, which must leave out the same images."""
    assert assign_folds(nominal(8), 3, 0) == [2, 0, 0, 2, 1, 1, 0, 1]


def test_the_single_image_of_a_category_trains_in_each_fold_and_in_the_last_training() -> None:
    samples = nominal(4, "a") + nominal(1, "b")
    for fold, held in ((0, 2), (1, 2), (None, 0)):
        splits = list_splits(Listed(*samples), Split(folds=2, fold=fold))
        assert splits.train[-1] == samples[-1] and len(splits.val) == held and len(splits.train) == 5 - held


def test_images_of_one_item_lie_in_one_fold() -> None:
    samples = [s._replace(item=f"part{i // 3}") for i, s in enumerate(nominal(30))]
    numbers = assign_folds(samples, 4, 0)
    assert all(len({*numbers[i : i + 3]}) == 1 for i in range(0, 30, 3)) and count_folds(numbers) == 4


def test_the_number_of_folds_can_equal_the_number_of_images() -> None:
    assert sorted(n for n in assign_folds(nominal(5), 5, 0) if n is not None) == [0, 1, 2, 3, 4]
    assert {*assign_folds(nominal(2), 2, 0)} == {0, 1}
    folds = [Split(), Split(folds=2), Split(folds=2, fold=0), Split(folds=2, fold=1)]
    assert [split.repeats for split in folds] == [False, True, False, True]


def test_images_that_cannot_be_divided_into_folds_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"decision.folds needs two nominal images .* each category has only one: give another image"
    ):
        assign_folds(nominal(1), 2, 0)
    with pytest.raises(
        UserError, match=r"decision.folds is 6, but there are 5 nominal images .*: give at most 5, or leave-"
    ):
        assign_folds(nominal(5), 6, 0)
    official = Sample(Path("v.png"), 0, split="validation")
    with pytest.raises(UserError, match=r"validation images of its own, such as v.png, which set the threshold"):
        assign_folds([*nominal(5), official], 2, 0)


def test_all_images_are_for_training_where_the_validation_share_is_0() -> None:
    """A category with one image is for training too. No image then decides."""
    assert split_nominal(nominal(1, "a") + nominal(3, "b"), 0, 0) == (nominal(1, "a") + nominal(3, "b"), [])
    for alone in (lambda: split_nominal(nominal(1), 0.2, 0), lambda: assign_folds(nominal(1), "leave-one-out", 0)):
        with pytest.raises(UserError, match=r"Or set data.split.val_fraction to 0, .* to train without a threshold"):
            alone()


def test_each_fold_is_held_out_once_and_the_last_training_has_all_images(bottle: Path) -> None:
    source = MVTec(bottle)
    last = list_splits(source, Split(folds=3))
    parts = [list_splits(source, Split(folds=3, fold=number)) for number in range(3)]
    assert not last.val and last.test == parts[0].test
    assert sorted(s.image for part in parts for s in part.val) == sorted(s.image for s in last.train)
    for part in parts:
        assert part.val and sorted(part.train + part.val, key=last.train.index) == last.train


def test_shots_are_drawn_from_each_category_and_more_shots_contain_fewer() -> None:
    test = [Sample(Path("t.png"), 1, split="test")]
    samples = nominal(10, "a") + nominal(4, "b") + test
    few, more = take_shots(samples, 2, 0), take_shots(samples, 3, 0)
    assert [sum(s.category == c and s.split == "train" for s in few) for c in "ab"] == [2, 2]
    assert set(few) < set(more) and few[-1:] == test
    assert few != take_shots(samples, 2, 1)
    assert sum(s.category == "b" for s in take_shots(samples, 4, 0)) == 4  # all images of the category
    with pytest.raises(UserError, match=r"split.shots is 5, but category 'b' has 4 nominal training images: lower it"):
        take_shots(samples, 5, 0)


def test_one_shot_is_enough_if_it_only_trains() -> None:
    test = Sample(Path("t.png"), 1, split="test")
    splits = list_splits(Listed(*nominal(9), test), Split(0, shots=1))
    assert (len(splits.train), splits.val, splits.test) == (1, [], [test])
    with pytest.raises(UserError, match=r"split.shots is 10, but the data set has 9 nominal training images: lower it"):
        take_shots(nominal(9), 10, 0)
    for split in (Split(shots=1), Split(shots=1, folds="leave-one-out")):
        with pytest.raises(
            UserError, match=r"split.shots is 1, but a threshold takes two nominal images of a category"
        ):
            list_splits(Listed(*nominal(9), test), split)


def test_the_record_of_a_split_has_the_keys_that_decide_which_images_are_held_out() -> None:
    assert Split(0.1, 3, shots=5, folds=4, fold=2).choices() == {
        "data.split.val_fraction": 0.1,
        "data.split.seed": 3,
        "data.split.shots": 5,
        "decision.folds": 4,
    }


def test_list_splits_takes_shots_and_refuses_a_mask_of_another_size(bottle: Path) -> None:
    few = list_splits(MVTec(bottle), Split(shots=5, seed=1))
    assert (len(few.train), len(few.val)) == (4, 1) and few.test == list_splits(MVTec(bottle)).test
    Image.new("L", (3, 3)).save(next((bottle / "ground_truth").rglob("*.png")))
    with pytest.raises(UserError, match="mask of another size"):
        list_splits(MVTec(bottle))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"val_fraction": -0.1}, "data.split.val_fraction is -0.1, but it must be 0 or lie between 0 and 1"),
        ({"val_fraction": 1}, "data.split.val_fraction is 1, but it must be 0 or lie between 0 and 1"),
        ({"seed": -1}, "data.split.seed is -1, but it must be 0 or more"),
        ({"shots": 0}, "data.split.shots is 0, but it must be 1 or more"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        Split(**wrong)


def test_the_split_of_a_run_is_read_from_its_configuration() -> None:
    config = {"data": {"split": {"val_fraction": 0.1, "seed": 3, "shots": None, "fold": None}}}
    assert Split.from_config(config) == Split(0.1, 3)
    assert Split.from_config({**config, "decision": {"folds": 4}}) == Split(0.1, 3, folds=4)
    assert Split.from_config({**config, "decision": None}) == Split(0.1, 3)
    with pytest.raises(
        UserError, match=r"config.yaml has no data.split: an earlier version wrote it, see UPGRADING.md"
    ):
        Split.from_config({"data": {"val_fraction": 0.2}})
