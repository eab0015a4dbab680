"""The console command: verbs, their arguments and their manual."""

from followyourpose.cli.main import main

__all__ = ["main"]
