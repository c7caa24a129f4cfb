"""Run a fleet's orders in processes on this machine."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, cast

from forecaster.domain.cores import ONE_CORE, usable_cores
from forecaster.domain.errors import FleetError
from forecaster.fleet.plan import FleetConfig, OrderResult

_STOP_SECONDS = 10


class _Worker:
    """A process that executes one order at a time."""

    def __init__(self, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "forecaster.fleet.worker"]
        # this package's parent folder first, whatever the current folder is
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
        with log.open("ab") as file:
            # in its own process group: Ctrl-C is for the fleet, which then stops its workers
            self.process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, start_new_session=True,
                env={**os.environ, **ONE_CORE, "PYTHONPATH": path},
            )  # fmt: skip
        self.orders = cast(IO[bytes], self.process.stdin)
        self.results = cast(IO[bytes], self.process.stdout)
        self.number, self.n_done = -1, 0

    def send(self, number: int, order: str) -> None:
        self.number = number
        try:
            self.orders.write(order.encode() + b"\n")
            self.orders.flush()
        except BrokenPipeError:
            # the process has ended; `receive` reports that
            return

    def receive(self) -> OrderResult:
        """Wait for the result of the current order."""
        self.n_done += 1
        line = self.results.readline().decode()
        if line.endswith("\n"):
            return OrderResult(self.number, line)
        return OrderResult(self.number, None, f"its worker {_explain(self.process.wait())}; its log is {self.log}")

    def stop(self) -> None:
        try:
            self.orders.close()
            self.process.wait(_STOP_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.results.close()


def run_locally(config: FleetConfig, orders: Sequence[str], logs: Path) -> Iterator[OrderResult]:
    """Execute orders in processes on this machine, and yield each result as it arrives.

    If a process dies, its order fails, and another process replaces it.

    Raises:
        FleetError: a process cannot be started.
    """
    count = min(config.workers or usable_cores(), len(orders))
    queue = deque(enumerate(orders))
    workers: list[_Worker] = []
    try:
        for number in range(count):
            workers.append(_Worker(logs / f"worker-{number}.log"))
            workers[-1].send(*queue.popleft())
        while workers:
            ready = wait([worker.results.fileno() for worker in workers])
            for worker in [worker for worker in workers if worker.results.fileno() in ready]:
                result = worker.receive()
                yield result
                if result.answer is None or not queue or worker.n_done == config.symbols_per_worker:
                    worker.stop()
                    workers.remove(worker)
                    if queue:
                        workers.append(worker := _Worker(worker.log))
                if queue:
                    worker.send(*queue.popleft())
    except OSError as error:
        raise FleetError(
            f"a worker's process cannot be started ({error}); free memory, or lower fleet.workers"
        ) from error
    finally:
        for worker in workers:
            worker.stop()


def _explain(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}; if memory ran out, lower fleet.workers"
