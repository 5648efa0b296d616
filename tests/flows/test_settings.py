"""custody.toml: read strictly, refused with one clear message."""

import pytest

from flows import settings
from policy.errors import ConfigurationError


def test_the_default_file_is_a_valid_one() -> None:
    """What `custody init` writes can be read, with the documented values."""
    read = settings.parse(settings.DEFAULT_TEXT)
    assert read.crawl.product == "custody"
    assert read.crawl.contact == ""
    assert read.seal.shard_slots == 1000


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_depth = 3", "max_deep = 3", "unknown key crawl.max_deep. Did you mean crawl.max_depth?"),
        ("max_depth = 3", "", "missing key crawl.max_depth"),
        ("max_depth = 3", 'max_depth = "three"', "crawl.max_depth must be int, is 'three'"),
        ("max_depth = 3", "max_depth = -1", "crawl.max_depth must not be negative"),
        ("same_site = true", "same_site = 1", "crawl.same_site must be bool, is 1"),
        ("seeds = []", 'seeds = "x"', "crawl.seeds must be a list of strings"),
        ("version = 1", "version = 2", "version is 2, expected 1"),
        ("version = 1", "", "version is missing, expected 1"),
        ("[seal]\n", "", "missing key seal"),
        ("[crawl]", "[crawl", "not valid TOML"),
        ("[crawl]", "[prefect]\nx = 1\n[crawl]", "unknown key prefect"),
    ],
)
def test_a_wrong_file_is_refused_with_what_and_where(old: str, new: str, said: str) -> None:
    """Unknown and missing keys, wrong types and values are named, with the file and the key."""
    with pytest.raises(ConfigurationError) as refused:
        settings.parse(settings.DEFAULT_TEXT.replace(old, new, 1), where="home/custody.toml")
    assert said in str(refused.value)
    assert str(refused.value).startswith("home/custody.toml")


def test_an_integer_is_a_good_number_of_seconds() -> None:
    """Numbers of seconds may be written without a decimal point."""
    read = settings.parse(settings.DEFAULT_TEXT.replace("deadline_s = 30.0", "deadline_s = 30"))
    assert read.crawl.deadline_s == 30.0
