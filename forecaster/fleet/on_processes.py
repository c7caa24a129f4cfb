"""Workers as processes of this machine."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, cast

from forecaster.domain.errors import FleetError
from forecaster.fleet.plan import Ended, FleetConfig
from forecaster.fleet.work import ENVIRONMENT

_STOP_SECONDS = 10


class _Worker:
    """A process that carries out one order at a time."""

    def __init__(self, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "forecaster.fleet.worker"]
        # this package's folder first, wherever the fleet is started from
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
        with log.open("ab") as file:
            # in a group of its own: Ctrl-C is for the fleet, which then ends its workers
            self.process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, start_new_session=True,
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
            )  # fmt: skip
        self.orders = cast(IO[bytes], self.process.stdin)
        self.answers = cast(IO[bytes], self.process.stdout)
        self.number, self.done = -1, 0

    def give(self, number: int, order: str) -> None:
        self.number = number
        try:
            self.orders.write(order.encode() + b"\n")
            self.orders.flush()
        except BrokenPipeError:
            # it has ended meanwhile, and is found so when its answer is read
            return

    def take(self) -> Ended:
        """Return how its order ended; waits where it is not done."""
        self.done += 1
        line = self.answers.readline().decode()
        if line.endswith("\n"):
            return Ended(self.number, line)
        return Ended(self.number, None, f"its worker {_how(self.process.wait())}; its log is {self.log}")

    def stop(self) -> None:
        try:
            self.orders.close()
            self.process.wait(_STOP_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.answers.close()


def in_processes(config: FleetConfig, orders: Sequence[str], logs: Path) -> Iterator[Ended]:
    """Carry out orders in processes of this machine; yield each one's end as it comes.

    A process that dies takes its own order with it; another takes its place.

    Raises:
        FleetError: no process can be started.
    """
    count = min(config.workers or len(os.sched_getaffinity(0)), len(orders))
    left = deque(enumerate(orders))
    workers: list[_Worker] = []
    try:
        for number in range(count):
            workers.append(_Worker(logs / f"worker-{number}.log"))
            workers[-1].give(*left.popleft())
        while workers:
            ready = wait([worker.answers.fileno() for worker in workers])
            for worker in [one for one in workers if one.answers.fileno() in ready]:
                ended = worker.take()
                yield ended
                if ended.answer is None or not left or worker.done == config.symbols_per_worker:
                    worker.stop()
                    workers.remove(worker)
                    if left:
                        workers.append(worker := _Worker(worker.log))
                if left:
                    worker.give(*left.popleft())
    except OSError as error:
        raise FleetError(
            f"a worker's process cannot be started ({error}); free memory, or lower fleet.workers"
        ) from error
    finally:
        for worker in workers:
            worker.stop()


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}, as where memory runs out; fleet.workers may be lowered"
