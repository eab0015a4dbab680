"""Parsers of verbs: help with examples, errors in one line, and verbs that take a config and `key=value` settings."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from followyourpose.cli.manual import manual

Add = Callable[..., argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        text = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
        self.exit(2, f"followyourpose: error: {text} (see {self.prog} --help)\n")


def adder(parser: argparse.ArgumentParser) -> Add:
    """Return a function that adds verbs to a parser."""
    group = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)

    def add(
        name: str, call: Callable[[argparse.Namespace], None] | None, help: str, about: str, *examples: str
    ) -> argparse.ArgumentParser:
        lines = "".join(f"\n  {example}" for example in examples)
        verb = group.add_parser(
            name, help=help, description=about, epilog=f"examples:{lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        # Suppressed, for a verb within a verb would set its own default: the first parser has the only one.
        verb.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")
        verb.set_defaults(call=call)
        return verb

    return add


def add_config(
    add: Add, name: str, call: Callable[..., None], schema: type, help: str, about: str, *examples: str,
    options: str = "",
) -> argparse.ArgumentParser:  # fmt: skip
    """Add a verb that takes a config file and `key=value` settings."""
    verb = add(name, call, help, f"{about}\n\nkeys of CONFIG, and their defaults:\n\n{manual(schema)}", *examples)
    verb.usage = f"{verb.prog} [-h] [--debug] {options}[CONFIG] [key=value ...]"
    what = "a YAML file, and values that replace its own"
    verb.add_argument("arguments", nargs="*", metavar="CONFIG, key=value", help=what)
    return verb
