"""Run trials as Ray tasks, on a local Ray or on a cluster.

Optuna's database decides and remembers, as it does for trials in one process, so that a search can go on in either way.
Ray Tune keeps trials in a second place. Its `OptunaSearch` has no pruning of Optuna's own: it records a trial that a
scheduler has stopped as complete, with its last loss as its result.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forecaster.domain.cores import ONE_CORE
from forecaster.domain.errors import FleetError
from forecaster.domain.ray_connection import ray_connection, shorten
from forecaster.search.study import Study, open_study
from forecaster.search.trial import Work, run_trial
from forecaster.training import tracking

# trials after which a worker is replaced, because TensorFlow leaks memory
_TRIALS_PER_WORKER = 50


def run_on_ray(work: Work, study: Study, numbers: Iterator[int]) -> None:
    """Run the trials with these numbers, as many at once as there are workers.

    Ray runs a trial again whose worker is lost, up to three times; the trial resumes from its checkpoint.

    Raises:
        ConfigError: Ray is not installed, or the cluster has fewer cores than `workers`.
        FleetError: the cluster cannot be reached, or is lost.
    """
    config = work.config
    with ray_connection("search", config.ray_address, config.workers, config.trials) as (ray, count):
        task = ray.remote(num_cpus=1, max_calls=_TRIALS_PER_WORKER)(_run)
        shared, home = ray.put(work), Path.cwd()
        # by Ray's reference to the result: the number of the trial
        running: dict[Any, int] = {}
        while True:
            # a number is drawn when there is a worker for it, so that it depends on the trials that have ended
            while len(running) < count and (number := next(numbers, None)) is not None:
                running[task.remote(shared, home, number)] = number
            if not running:
                return
            (ready,), _ = ray.wait(list(running))
            number = running.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                run_trial(work, study, number, lost=f"its worker was lost each time: {shorten(error)}")
            except ray.exceptions.RayError as error:
                raise FleetError(
                    f"the Ray cluster is lost ({shorten(error)}); start the search again, which continues it"
                ) from error


def _run(work: Work, home: Path, number: int) -> None:
    # before TensorFlow is imported; numpy is already imported, but Ray limits it to one core
    os.environ.update(ONE_CORE)
    os.chdir(home)
    tracking.connect(work.recipe.tracking)
    with open_study(work.config, work.study_name) as study:
        run_trial(work, study, number)
