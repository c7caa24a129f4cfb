"""A connection to Ray: to one that is started for this process, or to a running cluster."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from forecaster.domain.cores import usable_cores
from forecaster.domain.errors import ConfigError, FleetError

# a local Ray listens only on loopback (on any system, despite the first name) and requires a token
_LOCAL_SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
# what workers are sent is small
_OBJECT_STORE_BYTES = 80 * 2**20
_CONNECT_SECONDS = 10


@contextmanager
def ray_connection(section: str, address: str | None, workers: int | None, most: int) -> Iterator[tuple[Any, int]]:
    """Connect to Ray, and yield it and the number of workers of one core each to start.

    Args:
        section: the section of the configuration that the settings come from, for messages.
        address: the address of a cluster, such as `10.0.0.1:6379`; None starts a local Ray.
        workers: the number of workers that is asked for; None for one per core.
        most: more workers than this have nothing to do.

    Raises:
        ConfigError: Ray is not installed, or the cluster has fewer cores than workers.
        FleetError: the cluster cannot be started or reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        os.environ.update(_LOCAL_SETTINGS)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{section}.on: Ray is not installed; pip install 'forecaster[ray]', or remove {section}.on"
        ) from error
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            count = min(workers or usable_cores(), most)
            own = {"num_cpus": count, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
            ray.init(address="local", **own, **quiet)
        else:
            host, _, port = address.partition(":")
            # Ray itself would retry for two minutes
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = address or "on loopback"
        raise FleetError(f"Ray {where}: cannot be started or reached ({shorten(error)}); is it up?") from error
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        count = min(workers or cores, most)
        if not 0 < count <= cores:
            raise ConfigError(
                f"{section}.workers: {count}, but the Ray cluster has {cores} cores; lower it, or add machines"
            )
        yield ray, count
    finally:
        ray.shutdown()


def shorten(error: Exception) -> str:
    """Return the line of Ray's error message that gives the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if "reason" in line.lower() or "has died" in line] or lines
    return reasons[0][:300] if reasons else type(error).__name__
