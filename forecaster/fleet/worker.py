"""A worker's process: an order a line on stdin, an answer a line on stdout; it ends with whoever gives the orders."""

import logging
import os
import queue
import sys
import threading

from forecaster.fleet.work import carry_out


def main() -> None:
    """Carry out one order after the other."""
    # a channel of its own: whatever libraries print goes to the log
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger(__name__).info("process %d", os.getpid())
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        answers.write(carry_out(orders.get()) + "\n")
        answers.flush()


def _listen(orders: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        orders.put(line)
    # nobody waits for the answer any more, and the next fleet must not find this one still at work
    os._exit(0)


if __name__ == "__main__":
    main()
