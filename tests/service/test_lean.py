"""The serving process imports no training framework and no pandas, and needs little memory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, TrainedModels

BANNED = (
    *("tensorflow", "keras", "mlflow", "pandas", "pyarrow", "exchange_calendars", "torch", "jax"),
    *("matplotlib", "plotly"),
)
# serves on a socket, requests a forecast from itself, changes the champion, and requests another
SCRIPT = """
import json, sys, threading, time, urllib.request
from pathlib import Path
import uvicorn
from forecaster.registry.cache import ModelIndex, read_indexes, write_index
from service.app import create_app
from service.settings import Settings

cache, body = Path(sys.argv[1]), sys.argv[2].encode()
config = uvicorn.Config(create_app(Settings(cache_dir=cache, tracking_uri=sys.argv[3])), port=0, log_level="warning")
server = uvicorn.Server(config)
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.01)
url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

def forecast_until(version):
    for _ in range(600):
        try:
            answer = json.load(urllib.request.urlopen(urllib.request.Request(f"{url}/v1/forecasts", body)))
        except urllib.error.HTTPError:
            answer = None
        if answer and answer["model"]["version"] == version:
            return
        time.sleep(0.05)
    raise SystemExit(f"version {version} never answered; the last answer is {answer}")

forecast_until(1)
index = read_indexes(cache)["sine"]
write_index(cache, "sine", ModelIndex({"champion": 2}, index.runs))
forecast_until(2)
# the dashboard's files too
for path in ("/", "/dashboard/plotly.min.js"):
    assert urllib.request.urlopen(url + path).read()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"modules": modules, "rss_kb": int(status["VmRSS"].split()[0])}))
"""


def test_serving_process_imports_no_heavy_libraries(models: TrainedModels, tmp_path: Path) -> None:
    from tests.service.conftest import forecast_request

    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(cache), json.dumps(forecast_request()), ""],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert not set(BANNED) & set(result["modules"])
    assert {"onnxruntime", "fastapi"} <= set(result["modules"])
    assert result["rss_kb"] < 180 * 1024
