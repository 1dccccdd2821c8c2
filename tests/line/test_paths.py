"""Each line of text is a path; empty lines are skipped."""

from pathlib import Path

from lit_ad.line.paths import PathFeed


def test_lines_are_paths() -> None:
    feed = PathFeed(["/a/b c.png\n", "\n", "d.png\r\n"])
    first, second = feed
    assert (first.name, first.file) == ("/a/b c.png", Path("/a/b c.png"))
    assert (second.name, second.file) == ("d.png", Path.cwd() / "d.png")
    assert not feed.try_again(first) and feed.count_waiting() == feed.passed_over == 0


def test_close_ends_the_feed_before_the_lines_end() -> None:
    feed, listed = PathFeed(["a", "b", "c"]), []
    for arrival in feed:
        listed.append(arrival.name)
        feed.close()
    assert listed == ["a"]
