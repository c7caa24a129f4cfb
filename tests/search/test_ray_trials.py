"""Trials on a local Ray: what they leave is what trials in one process leave."""

import contextlib
import os
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml

from forecaster.search.search import search
from tests.conftest import start_module
from tests.search.test_search import config_for, contents, has_completed_trial, runs_of, tiny, trials_of


@pytest.mark.skipif(not os.environ.get("FORECASTER_SOAK"), reason="two minutes: make soak")
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (pip install 'forecaster[ray]')")
def test_killed_search_on_ray_goes_on_in_one_process(tmp_path: Path) -> None:
    recipe, config = tiny(tmp_path), config_for(tmp_path)
    on_ray = config_for(tmp_path, on="ray", workers=2)
    job = {"train": recipe.model_dump(mode="json"), "search": on_ray.model_dump(mode="json")}
    # not in the folder of the MLflow store, which MLflow would find there by itself
    home = tmp_path / "home"
    home.mkdir()
    (home / "job.yaml").write_text(yaml.safe_dump(job))
    process = start_module("pipelines.search", "job.yaml", cwd=home)
    while not has_completed_trial(tmp_path):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [member for member in family if member.name().startswith("ray::_run")]
    process.kill()
    process.communicate()
    # workers end with their search: the next one must not find them running
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    for member in family:
        # Ray's own agents end a minute later
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    done = [contents(trial) for trial in trials_of(tmp_path) if trial.state.is_finished()]
    result = search(recipe, config)
    after = list(map(contents, trials_of(tmp_path)))
    assert done
    assert [trial for trial in after if trial in done] == done
    assert result.trials == {"complete": 3}
    assert [run.info.status for run in runs_of(recipe, result)] == ["FINISHED"] * 3
