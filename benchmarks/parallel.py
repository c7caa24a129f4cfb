"""Run trainings on all cores."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from forecaster.domain.cores import usable_cores
from forecaster.training.config import TrainConfig

T = TypeVar("T")


def on_all_cores(function: Callable[[TrainConfig], T], configs: Sequence[TrainConfig]) -> Iterator[T]:
    """Yield the function's result for each recipe, in order; each core runs one training at a time."""
    cores = usable_cores()
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from tqdm(pool.map(function, configs), total=len(configs), unit="training", dynamic_ncols=True)
