"""Markdown tables."""

import pytest

from followyourpose.common.tables import markdown_table

ROWS = [["cs", "1.5"], ["pck|0.1", "of\n17"]]


def test_a_cell_stays_in_its_column_and_its_line() -> None:
    assert markdown_table(["metric", ""], ROWS).splitlines() == [
        "| metric |  |",
        "| --- | --- |",
        "| cs | 1.5 |",
        "| pck\\|0.1 | of 17 |",
    ]


def test_columns_can_be_aligned_up_to_the_last() -> None:
    assert markdown_table(["metric", ""], ROWS, aligned=True).splitlines() == [
        "| metric   |  |",
        "| ---      | --- |",
        "| cs       | 1.5 |",
        "| pck\\|0.1 | of 17 |",
    ]


def test_a_row_has_as_many_cells_as_the_head() -> None:
    with pytest.raises(ValueError):
        markdown_table(["metric", "value"], [["cs"]])
