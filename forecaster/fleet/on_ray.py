"""Workers as Ray actors: on loopback, or on the machines of a cluster."""

import os
import secrets
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forecaster.domain.errors import ConfigError, FleetError
from forecaster.fleet.plan import Ended, FleetConfig
from forecaster.fleet.work import ENVIRONMENT, carry_out

# all listen on loopback then, and whoever has no token is refused; the first name is Ray's for that on any system
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
# orders and answers are a few kilobytes
_OBJECT_STORE_BYTES = 80 * 2**20
_CONNECT_SECONDS = 10


class _Worker:
    """What runs in the actor's process."""

    def __init__(self) -> None:
        # before TensorFlow is imported; numpy is already, and was told by Ray to use one core
        os.environ.update(ENVIRONMENT)

    def carry_out(self, order: str) -> str:
        return carry_out(order)


def on_ray(config: FleetConfig, orders: Sequence[str], logs: Path) -> Iterator[Ended]:
    """Carry out orders by Ray actors of one core each; yield each one's end as it comes.

    Raises:
        ConfigError: Ray is not installed, or the cluster has fewer cores than workers are asked for.
        FleetError: the cluster cannot be reached, or is lost.
    """
    with _connected(config, len(orders)) as (ray, count):
        actor = ray.remote(num_cpus=1)(_Worker)
        left = deque(enumerate(orders))
        under_way: dict[Any, tuple[int, Any, int]] = {}

        def give(worker: Any, done: int) -> None:
            number, order = left.popleft()
            under_way[worker.carry_out.remote(order)] = number, worker, done

        for _ in range(count):
            give(actor.remote(), 0)
        while under_way:
            (ready,), _ = ray.wait(list(under_way))
            number, worker, done = under_way.pop(ready)
            try:
                ended = Ended(number, ray.get(ready))
            except ray.exceptions.RayActorError as error:
                worker, ended = None, Ended(number, None, f"its worker was lost: {_in_short(error)}")
            except ray.exceptions.RayError as error:
                raise FleetError(f"the Ray cluster is lost ({_in_short(error)}); start again, which goes on") from error
            yield ended
            if left and (worker is None or done + 1 == config.symbols_per_worker):
                # without a handle to it, the one before ends
                worker = None
                give(actor.remote(), 0)
            elif left:
                give(worker, done + 1)


@contextmanager
def _connected(config: FleetConfig, n_orders: int) -> Iterator[tuple[Any, int]]:
    """Yield Ray, connected, and how many workers there are to be."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if config.ray_address is None:
        os.environ.update(_LOCAL)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("fleet.on: Ray is not installed; pip install 'forecaster[ray]', or set processes") from error
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if config.ray_address is None:
            count = min(config.workers or len(os.sched_getaffinity(0)), n_orders)
            own = {"num_cpus": count, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
            ray.init(address="local", **own, **quiet)
        else:
            host, _, port = config.ray_address.partition(":")
            # Ray itself would try for two minutes
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
            ray.init(address=config.ray_address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = config.ray_address or "on loopback"
        raise FleetError(f"Ray {where}: cannot be started or reached ({_in_short(error)}); is it up?") from error
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        count = min(config.workers or cores, n_orders)
        if not 0 < count <= cores:
            raise ConfigError(
                f"fleet.workers: {count}, and the Ray cluster has {cores} cores; lower it, or add machines"
            )
        yield ray, count
    finally:
        ray.shutdown()


def _in_short(error: Exception) -> str:
    """Return what Ray says in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "reason" in line.lower() or "has died" in line] or lines
    return said[0][:300] if said else type(error).__name__
