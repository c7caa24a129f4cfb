"""Run a fleet's orders in Ray actors, on a local Ray or on a cluster."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from forecaster.domain.cores import ONE_CORE
from forecaster.domain.errors import FleetError
from forecaster.domain.ray_connection import ray_connection, shorten
from forecaster.fleet.plan import FleetConfig, OrderResult
from forecaster.fleet.work import execute_order


class _Worker:
    """The actor that executes orders."""

    def __init__(self) -> None:
        # before TensorFlow is imported; numpy is already imported, but Ray limits it to one core
        os.environ.update(ONE_CORE)

    def execute_order(self, order: str) -> str:
        return execute_order(order)


def run_on_ray(config: FleetConfig, orders: Sequence[str], logs: Path) -> Iterator[OrderResult]:
    """Execute orders in Ray actors of one core each, and yield each result as it arrives.

    Raises:
        ConfigError: Ray is not installed, or the cluster has fewer cores than `config.workers`.
        FleetError: the cluster cannot be reached, or is lost.
    """
    with ray_connection("fleet", config.ray_address, config.workers, len(orders)) as (ray, count):
        actor = ray.remote(num_cpus=1)(_Worker)
        queue = deque(enumerate(orders))
        # by Ray's reference to the result: the order's number, the worker, and how many orders it had done
        running: dict[Any, tuple[int, Any, int]] = {}

        def send(worker: Any, n_done: int) -> None:
            number, order = queue.popleft()
            running[worker.execute_order.remote(order)] = number, worker, n_done

        for _ in range(count):
            send(actor.remote(), 0)
        while running:
            (ready,), _ = ray.wait(list(running))
            number, worker, n_done = running.pop(ready)
            try:
                result = OrderResult(number, ray.get(ready))
            except ray.exceptions.RayActorError as error:
                worker, result = None, OrderResult(number, None, f"its worker was lost: {shorten(error)}")
            except ray.exceptions.RayError as error:
                raise FleetError(
                    f"the Ray cluster is lost ({shorten(error)}); start the fleet again, which continues it"
                ) from error
            yield result
            if queue and (worker is None or n_done + 1 == config.symbols_per_worker):
                # an actor ends when there is no handle to it
                worker = None
                send(actor.remote(), 0)
            elif queue:
                send(worker, n_done + 1)
