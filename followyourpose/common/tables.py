"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], aligned: bool = False) -> str:
    """Return a table of text cells, a line per row; in a cell `|` is escaped and a line break is a space.

    Args:
        aligned: pad all columns but the last, for a table that is printed.
    """
    lines = [[" ".join(str(cell).splitlines()).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    widths = [max(map(len, column)) if aligned else 0 for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)
