"""Counts in texts: one image, two images."""

from lit_ad.counts import first_few, format_count, format_times


def test_one_thing_is_in_the_singular() -> None:
    assert [format_count(number, "image") for number in range(3)] == ["no images", "1 image", "2 images"]
    assert [format_count(number, "category is", "categories are") for number in (1, 2)] == [
        *("1 category is", "2 categories are"),
    ]
    assert [format_times(number) for number in (1, 2)] == ["once", "2 times"]


def test_a_sentence_names_the_first_of_many_things() -> None:
    assert first_few(["a.png"]) == "a.png"
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few([1, 2, 3, 4, 5]) == "1, 2, 3 and 2 more"
