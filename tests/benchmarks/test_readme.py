"""The generated parts of the README are the ones that are there."""


import pytest

from benchmarks.readme import ROOT, filled


def test_the_readme_is_in_step() -> None:
    """Run `python -m benchmarks.readme` if this fails."""
    text = (ROOT / "README.md").read_text()
    assert text == filled(text)


def test_missing_markers_are_an_error() -> None:
    with pytest.raises(ValueError, match="no markers <!-- options -->"):
        filled("# a readme without markers\n")


def test_what_stood_between_the_markers_goes() -> None:
    text = "<!-- options -->\nold\n<!-- /options -->\n<!-- figures -->\nold\n<!-- /figures -->\n"
    assert "old" not in filled(text)
