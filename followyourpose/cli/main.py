"""The console command: `followyourpose VERB [CONFIG] [key=value ...]` -> a config -> one call.

Exit codes: 0 done, 2 bad input (one line on stderr), 130 interrupted.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from followyourpose.cli import runs, tools
from followyourpose.cli.parser import Parser, adder
from followyourpose.common.device import installed_version, prepare_process, torchvision_mismatch

EXPECTED_ERRORS = (ValueError, OSError)  # raised by bad input; anything else is a bug and keeps its traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; `arguments` None takes those of the process. Return the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of torchvision, which nothing here uses
    prepare_process()
    if not sys.stderr.isatty():
        for setting in ("DELAY", "MININTERVAL"):  # in a log a bar is noise, but of a long stage a state a minute
            os.environ.setdefault(f"TQDM_{setting}", "60")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal's encoding lacks is printed as \\xe9
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parsed(arguments)
        options.call(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EXPECTED_ERRORS as error:
        if options.debug:
            raise
        print(f"followyourpose: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except (ImportError, RuntimeError) as error:
        if options.debug or (fault := torchvision_mismatch()) is None:
            raise
        print(f"followyourpose: error: {fault} ({_one_line(error)[:200]})", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"followyourpose: interrupted {stop}".rstrip(), file=sys.stderr)
        return 130
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command; key=value settings may stand anywhere, also behind a flag, where argparse leaves them over."""
    parser = _parser()
    options, left = parser.parse_known_args(arguments)
    if wrong := [text for text in left if text.startswith("-") or not hasattr(options, "arguments")]:
        setting = _as_setting(wrong[0], arguments) if hasattr(options, "arguments") else ""
        parser.error(f"unrecognized arguments: {' '.join(wrong)}{setting}")
    if left:
        options.arguments += left
    return options


def _as_setting(flag: str, arguments: Sequence[str] | None) -> str:
    """Return the hint at the setting that a flag such as `--prompt TEXT` was meant for."""
    given = [*(sys.argv[1:] if arguments is None else arguments), ""]
    key, equals, value = flag.lstrip("-").partition("=")
    value = value if equals else given[given.index(flag) + 1]
    return f'; settings are written without dashes: {key.replace("-", "_")}="{value}"'


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()  # half an emoji in a name cannot be printed


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="followyourpose",
        description="Follow Your Pose: pose-guided text-to-video generation (arXiv 2304.01186).",
        epilog="examples:\n  followyourpose generate\n  followyourpose train configs/puppet/stage1.yaml seed=1\n\n"
        "`followyourpose VERB --help` is the manual of a verb: every key, its default and its unit.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = installed_version("followyourpose") or "(not installed)"
    parser.add_argument("--version", action="version", version=f"followyourpose {version}")
    parser.set_defaults(debug=False)
    add = adder(parser)
    for verb in (*runs.VERBS, *tools.VERBS):
        verb(add)
    return parser
