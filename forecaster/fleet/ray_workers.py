"""Run a fleet's orders in Ray actors, on a local Ray or on a cluster."""

import os
import secrets
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forecaster.domain.cores import usable_cores
from forecaster.domain.errors import ConfigError, FleetError
from forecaster.fleet.plan import FleetConfig, OrderResult
from forecaster.fleet.work import ENVIRONMENT, execute_order

# a local Ray listens only on loopback (on any system, despite the first name) and requires a token
_LOCAL_SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
# orders and results are a few kilobytes
_OBJECT_STORE_BYTES = 80 * 2**20
_CONNECT_SECONDS = 10


class _Worker:
    """The actor that executes orders."""

    def __init__(self) -> None:
        # before TensorFlow is imported; numpy is already imported, but Ray limits it to one core
        os.environ.update(ENVIRONMENT)

    def execute_order(self, order: str) -> str:
        return execute_order(order)


def run_on_ray(config: FleetConfig, orders: Sequence[str], logs: Path) -> Iterator[OrderResult]:
    """Execute orders in Ray actors of one core each, and yield each result as it arrives.

    Raises:
        ConfigError: Ray is not installed, or the cluster has fewer cores than `config.workers`.
        FleetError: the cluster cannot be reached, or is lost.
    """
    with _connected(config, len(orders)) as (ray, count):
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
                worker, result = None, OrderResult(number, None, f"its worker was lost: {_shorten(error)}")
            except ray.exceptions.RayError as error:
                raise FleetError(
                    f"the Ray cluster is lost ({_shorten(error)}); start the fleet again, which continues it"
                ) from error
            yield result
            if queue and (worker is None or n_done + 1 == config.symbols_per_worker):
                # an actor ends when there is no handle to it
                worker = None
                send(actor.remote(), 0)
            elif queue:
                send(worker, n_done + 1)


@contextmanager
def _connected(config: FleetConfig, n_orders: int) -> Iterator[tuple[Any, int]]:
    """Connect to Ray, and yield it and the number of workers to start."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if config.ray_address is None:
        os.environ.update(_LOCAL_SETTINGS)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("fleet.on: Ray is not installed; pip install 'forecaster[ray]', or set processes") from error
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if config.ray_address is None:
            count = min(config.workers or usable_cores(), n_orders)
            own = {"num_cpus": count, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
            ray.init(address="local", **own, **quiet)
        else:
            host, _, port = config.ray_address.partition(":")
            # Ray itself would retry for two minutes
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
            ray.init(address=config.ray_address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = config.ray_address or "on loopback"
        raise FleetError(f"Ray {where}: cannot be started or reached ({_shorten(error)}); is it up?") from error
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        count = min(config.workers or cores, n_orders)
        if not 0 < count <= cores:
            raise ConfigError(
                f"fleet.workers: {count}, but the Ray cluster has {cores} cores; lower it, or add machines"
            )
        yield ray, count
    finally:
        ray.shutdown()


def _shorten(error: Exception) -> str:
    """Return the line of Ray's error message that gives the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if "reason" in line.lower() or "has died" in line] or lines
    return reasons[0][:300] if reasons else type(error).__name__
