"""A worker process: it reads one order per line from stdin and writes one answer per line to stdout.

It ends when stdin is closed, and so with the process that started it.
"""

import logging
import os
import queue
import sys
import threading

from forecaster.fleet.work import execute_order


def main() -> None:
    """Execute orders one after another."""
    # a copy of stdout, which is then redirected to the log for everything that libraries print
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger(__name__).info("process %d", os.getpid())
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_orders, args=(orders,), daemon=True).start()
    while True:
        answers.write(execute_order(orders.get()) + "\n")
        answers.flush()


def _read_orders(orders: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        orders.put(line)
    # the fleet has ended: nothing reads the answer, and the next fleet must not find this worker still running
    os._exit(0)


if __name__ == "__main__":
    main()
