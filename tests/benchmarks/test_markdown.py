"""Markdown tables."""

from benchmarks.markdown import markdown_table


def test_a_table_has_a_rule_below_its_headings_and_its_bars_escaped() -> None:
    lines = ["| way | why |", "| --- | --- |", "| ours | a \\| b |"]
    assert markdown_table(["way", "why"], [["ours", "a | b"]]) == "\n".join(lines)


def test_a_table_without_lines_has_its_headings() -> None:
    assert markdown_table(["way"], []) == "| way |\n| --- |"
