"""What makes shards in the tests of workers: it lies in a module of its own, because worker processes import it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gta_datasets.errors import CacheError
from gta_datasets.pipeline import Pipeline

__all__ = ["ForeignPipeline", "FragilePipeline", "LogMaker"]


class FragilePipeline(Pipeline):
    """Kills its process as it makes shard 1 for the first time, once the shard is generated but not committed."""

    def _make(self, number: int) -> object:
        made = super()._make(number)
        with (self.cache_root / "log").open("a") as log:
            log.write(f"{number}\n")
        first = self.cache_root / "first"
        if number == 1 and not first.exists():
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return made


class ForeignPipeline(Pipeline):
    """Is of another version in other processes."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"seed": state["seed"] + 1})


@dataclass
class LogMaker:
    """Writes the number of a shard and its process to a file; some numbers have other effects."""

    log: Path
    device: str = "cpu"

    def shard(self, number: int) -> None:
        with self.log.open("a") as log:
            log.write(f"{number} {os.getpid()}\n")
        match number:
            case 10:
                os._exit(7)
            case 11:
                raise CacheError(28, "no space left")
            case 12:
                raise UnportableError(self.log, number)
            case 13:
                time.sleep(600)


class UnportableError(Exception):
    """Cannot be copied: its arguments are not those of its constructor."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(f"{path.name} {number}")
