"""Compilation of a network by torch.compile: whole, or block by block, which starts in a fraction of the time."""

import os
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

CACHE = "TORCHINDUCTOR_CACHE_DIR"
REGIONS = 64  # graphs of one kind of block, more than its shapes: beyond them torch would no longer compile


class Compiling:
    """A diffusers network whose compiled code is kept on the disk, so that a second start is a warm one.

    It lies in ~/.cache/followyourpose/compiled, or where TORCHINDUCTOR_CACHE_DIR says.
    """

    def compile_as(self, kind: str, fullgraph: bool = True) -> None:
        """Compile for the shapes of the calls: "regional", block by block, or "full", the network as one graph.

        Args:
            kind: of these two; any other, such as "false", leaves the network as it is.
            fullgraph: whether code that cannot be part of a graph is an error.
        """
        if kind == "regional":
            self.compile_repeated_blocks(fullgraph=fullgraph, dynamic=False)
        elif kind == "full":
            self.compile(fullgraph=fullgraph, dynamic=False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile as `torch.nn.Module.compile` does."""
        _set_compiler()
        super().compile(*args, **kwargs)  # type: ignore[misc]  # of the ModelMixin beside this class

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """Compile each block by itself, as diffusers' method does; equal shapes share a graph."""
        _set_compiler()
        super().compile_repeated_blocks(*args, **kwargs)  # type: ignore[misc]


def _set_compiler() -> None:
    torch.compiler.allow_in_graph(rearrange)  # einops' calls stay whole: to trace them takes most of the time
    torch._dynamo.config.recompile_limit = max(REGIONS, torch._dynamo.config.recompile_limit)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "followyourpose" / "compiled"
    if os.environ.get(CACHE, default_cache_dir()) == default_cache_dir():  # torch itself sets the variable to that
        os.environ[CACHE] = str(cache)
