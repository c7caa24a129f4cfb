"""The worst that 64 clients may ask for at once: memory stays bounded, and `/health/live` answers meanwhile."""

import http.client
import json
import multiprocessing
import statistics
import threading
import time
from collections import Counter
from datetime import datetime, timedelta

from tests.conftest import TrainedModels
from tests.faults.conftest import count, running
from tests.faults.test_bounds import megabytes
from tests.service.conftest import forecast_request

CLIENTS = 64
MOST_MEGABYTES = 512
V2 = "/v2/models/sine/infer"
HOURS = [(datetime(2026, 1, 1) + timedelta(hours=row)).isoformat() for row in range(250_000)]


def of_series(count: int, rows: int, **changes: object) -> bytes:
    """Return a request for forecasts of so many series of so many rows."""
    values = [row % 12 / 6 - 1 for row in range(rows)]
    many = [{"unique_id": f"s{number}", "ds": HOURS[:rows], "y": values} for number in range(count)]
    return json.dumps(forecast_request(series=many, **changes)).encode()


def tensor(data: list[object], batch: int) -> bytes:
    x = {"name": "x", "shape": [batch, 24, 1], "datatype": "FP64", "data": data}
    return json.dumps({"parameters": {"horizon": 40}, "inputs": [x]}).encode()


def worst() -> list[tuple[str, bytes]]:
    """Return the largest valid request of each kind that the default settings take, and some that are not valid."""
    quantiles = [0.03 + number * 0.94 / 39 for number in range(40)]
    return [
        ("/v1/forecasts", of_series(5000, 48, horizon=33, level=[80, 95])),
        ("/v1/forecasts", of_series(590, 24, horizon=40, level=None, quantiles=quantiles)),
        ("/v1/forecasts", of_series(1, 250_000, horizon=40, level=None, quantiles=quantiles)),
        (
            "/v1/actuals",
            json.dumps({"actuals": [{"unique_id": "a", "ds": at, "y": 1} for at in HOURS[:100_000]]}).encode(),
        ),
        (V2, tensor([row % 12 / 6 for row in range(5000 * 24)], 5000)),
        (V2, tensor([[[row % 12 / 6] for row in range(24)] for _ in range(5000)], 5000)),
        (V2, b"{" + b" " * (16 * 2**20 - 1)),
        ("/v1/forecasts", b'{"series": [' + b"{}," * 5_000_000 + b"{}]}"),
        ("/v1/forecasts", b'{"series": [' + b"[[[[]]]]," * 100_000 + b"{}]}"),
    ]


def hammer(port: int, seconds: float, told: "multiprocessing.Queue[Counter[int]]") -> None:
    """Ask for the worst from many threads, tell which statuses were answered how often, and end without waiting."""
    requests, statuses = worst(), Counter[int]()

    def work(number: int) -> None:
        while True:
            path, body = requests[number % len(requests)]
            number += 1
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            try:
                connection.request("POST", path, body)
                answer = connection.getresponse()
                while answer.read(2**20):
                    pass
                statuses[answer.status] += 1
            except OSError:
                statuses[0] += 1
            finally:
                connection.close()

    for number in range(CLIENTS):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    time.sleep(seconds)
    told.put(statuses.copy())


def test_largest_requests_of_64_clients_stay_within_512_mb(models: TrainedModels, database_url: str) -> None:
    # a process of its own, or its threads would keep the questions below waiting, too
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[Counter[int]] = context.Queue()
    with running(models.cache, database_url) as service:
        load = context.Process(target=hammer, args=(service.port, count(15, 120), told))
        load.start()
        waited = []
        while load.is_alive() and told.empty():
            begin = time.perf_counter()
            assert service.request("GET", "/health/live")[0] == 200
            waited.append(time.perf_counter() - begin)
            time.sleep(0.05)
        statuses = told.get()
        load.join()
        assert statuses[200] > 0
        assert statuses[500] == 0
        assert megabytes(service) < MOST_MEGABYTES
        # a tenth of it on a machine that has nothing else to do
        assert statistics.median(waited) < 2
        assert service.forecast()[0] == 200
