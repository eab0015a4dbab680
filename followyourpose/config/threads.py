"""The setting that every verb that computes shares: CPU threads."""

from dataclasses import dataclass

from followyourpose.common.checks import check_at_least


@dataclass
class ThreadsConfig:
    """Share of the machine that a process takes."""

    threads: int | None = None  # CPU threads of a process; None: one for each core that it may use

    def __post_init__(self) -> None:
        if self.threads is not None:
            check_at_least("threads", self.threads)
