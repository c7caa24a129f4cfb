"""The largest requests of 64 clients at once: memory stays bounded, and `/health/live` answers meanwhile."""

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
from tests.faults.test_bounds import peak_megabytes
from tests.service.conftest import forecast_request

CLIENTS = 64
MAX_MEGABYTES = 512
V2 = "/v2/models/sine/infer"
HOURS = [(datetime(2026, 1, 1) + timedelta(hours=row)).isoformat() for row in range(250_000)]


def series_request(count: int, rows: int, **changes: object) -> bytes:
    """Return a request for forecasts of `count` series of `rows` rows."""
    values = [row % 12 / 6 - 1 for row in range(rows)]
    many = [{"unique_id": f"s{number}", "ds": HOURS[:rows], "y": values} for number in range(count)]
    return json.dumps(forecast_request(series=many, **changes)).encode()


def tensor(data: list[object], batch: int) -> bytes:
    x = {"name": "x", "shape": [batch, 24, 1], "datatype": "FP64", "data": data}
    return json.dumps({"parameters": {"horizon": 40}, "inputs": [x]}).encode()


def largest_requests() -> list[tuple[str, bytes]]:
    """Return the largest valid request of each kind under the default settings, and some invalid ones."""
    quantiles = [0.03 + number * 0.94 / 39 for number in range(40)]
    return [
        ("/v1/forecasts", series_request(5000, 48, horizon=33, level=[80, 95])),
        ("/v1/forecasts", series_request(590, 24, horizon=40, level=None, quantiles=quantiles)),
        ("/v1/forecasts", series_request(1, 250_000, horizon=40, level=None, quantiles=quantiles)),
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


def send_largest(port: int, seconds: float, results: "multiprocessing.Queue[Counter[int]]") -> None:
    """Send the largest requests from many threads for `seconds`; put the counts of the statuses into `results`."""
    requests, statuses = largest_requests(), Counter[int]()

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
    results.put(statuses.copy())


def test_largest_requests_of_64_clients_stay_within_512_mb(models: TrainedModels, database_url: str) -> None:
    # a separate process, so that the load's threads do not delay the health checks below
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Counter[int]] = context.Queue()
    with running(models.cache, database_url) as service:
        load = context.Process(target=send_largest, args=(service.port, count(15, 120), results))
        load.start()
        latencies = []
        while load.is_alive() and results.empty():
            start = time.perf_counter()
            assert service.request("GET", "/health/live")[0] == 200
            latencies.append(time.perf_counter() - start)
            time.sleep(0.05)
        statuses = results.get()
        load.join()
        assert statuses[200] > 0
        assert statuses[500] == 0
        assert peak_megabytes(service) < MAX_MEGABYTES
        # on an idle machine it is a tenth of this
        assert statistics.median(latencies) < 2
        assert service.forecast()[0] == 200
