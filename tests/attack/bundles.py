"""Attacks through the registry: harmful bundles, unreadable versions, and an emptied store."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from forecaster.domain.manifest import CALIBRATION, MANIFEST, MODEL
from tests.attack.attack import Attack, Outcome
from tests.attack.target import MEMORY_LIMIT, MIB, Service, Target
from tests.registry.bundle_faults import Damage, edit_graph, insert, pipe, write

# how long a harmful champion is watched; time limits, for a busy machine, until a good one is served and a sync has run
_WATCHED_SECONDS, _SERVED_SECONDS, _SYNCED_SECONDS = 12, 60, 40
# more than a container has, so that the attack must be stopped before memory is refused
_LARGE_LIMIT = 4096 * MIB


class Registry:
    """A copy of the trained model's MLflow store."""

    def __init__(self, target: Target, workspace: Path) -> None:
        import mlflow

        self.file = workspace / "mlflow.db"
        shutil.copyfile(target.store / "mlruns" / "mlflow.db", self.file)
        self.uri = f"sqlite:///{self.file}"
        self.client = mlflow.MlflowClient(self.uri)

    def publish(self, change: Damage = lambda folder: None, alias: str | None = None) -> int:
        """Register a changed copy of version 1; return its version number."""
        first = self.client.get_model_version("sine", "1")
        run = self.client.get_run(first.run_id)
        new = self.client.create_run(run.info.experiment_id)
        folder = Path(new.info.artifact_uri.removeprefix("file://")) / "model"
        shutil.copytree(Path(first.source.removeprefix("file://")), folder)
        change(folder)
        version = self.client.create_model_version("sine", str(folder), new.info.run_id)
        if alias:
            self.client.set_registered_model_alias("sine", alias, version.version)
        return int(version.version)


def _take_output(model: ModelProto) -> str:
    """Rename the graph's output to `inner`, so that nodes can be appended; return its former name."""
    name: str = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if output == name else output for output in node.output]
    return name


def _loop_for_ever(model: ModelProto) -> None:
    name = _take_output(model)
    doubles = helper.make_tensor_type_proto(TensorProto.DOUBLE, None)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["value"], ["same"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_value_info("value", doubles),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_value_info("same", doubles)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(helper.make_node("Loop", ["", "always", "inner"], [name], body=body))


def _expand(model: ModelProto) -> None:
    name = _take_output(model)
    constants = {"size": np.array([600_000_000]), "one": np.array(1.0, np.float32), "nothing": np.array(0.0)}
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    model.graph.node.extend(
        [
            # depends on the output, so that ONNX Runtime cannot fold it into a constant
            helper.make_node("Cast", ["inner"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["single"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "one"], ["scaled"]),
            helper.make_node("Expand", ["scaled", "size"], ["large"]),
            helper.make_node("ReduceMax", ["large"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["wide", "nothing"], ["zero"]),
            helper.make_node("Add", ["inner", "zero"], [name]),
        ]
    )


def _champion(name: str, change: Damage, limit: int = MEMORY_LIMIT) -> Callable[[Target], Outcome]:
    """Publish a harmful champion, then a good one: forecasts go on, memory stays low, and the good one is served."""

    def run(target: Target) -> Outcome:
        workspace = target.workspace(name)
        registry = Registry(target, workspace)
        with target.service(workspace, limit, TRACKING_URI=registry.uri) as service:
            bad, good = registry.publish(change, "champion"), 0
            answered_by: list[int | None] = []
            start = time.monotonic()
            while time.monotonic() < start + _WATCHED_SECONDS + _SERVED_SECONDS and service.is_alive:
                answered_by.append(_served_version(service))
                if not good and time.monotonic() > start + _WATCHED_SECONDS:
                    good = registry.publish(alias="champion")
                if good and answered_by[-1] == good:
                    break
                time.sleep(0.2)
            peak = service.peak_mib
            if not service.is_alive:
                return Outcome(False, f"the service died with {service.process.returncode}, last seen at {peak} MiB")
        unanswered, last = answered_by.count(None), answered_by[-1]
        seen = f"peak {peak} MiB, {unanswered} of {len(answered_by)} forecasts unanswered"
        if bad in answered_by:
            return Outcome(False, f"{seen}, and version {bad} serves")
        if last != good:
            return Outcome(False, f"{seen}, and the good version {good} after it is never served")
        return Outcome(unanswered == 0 and peak < 600, f"{seen}, the good version {good} after it serves")

    return run


def _served_version(service: Service) -> int | None:
    try:
        status, answer = service.forecast(timeout=5)
    except OSError:
        return None
    return answer["model"]["version"] if status == 200 else None


def _unreadable(name: str, change: Damage) -> Callable[[Target], Outcome]:
    """Publish an unreadable version, then a good champion, which must be served."""

    def run(target: Target) -> Outcome:
        workspace = target.workspace(name)
        registry = Registry(target, workspace)
        with target.service(workspace, TRACKING_URI=registry.uri) as service:
            bad, good = registry.publish(change), registry.publish(alias="champion")
            start = time.monotonic()
            while time.monotonic() < start + _SERVED_SECONDS and _served_version(service) != good:
                time.sleep(0.2)
            served = _served_version(service)
            if served == good:
                return Outcome(True, f"version {good} is served {time.monotonic() - start:.0f} s after it was promoted")
            problem = service.request("GET", "/health/ready")[1].get("last_problem")
        return Outcome(
            False, f"version {served} still serves {_SERVED_SECONDS} s after {good} was promoted, because of {bad}: "
            f"{str(problem)[:90]}",
        )  # fmt: skip

    return run


_DEEP = write(CALIBRATION, b"[" * 100_000 + b"]" * 100_000, hashed=True)


def _delete_all(registry: Registry) -> None:
    registry.client.delete_registered_model("sine")


def _empty_file(registry: Registry) -> None:
    registry.file.write_bytes(b"")


def _emptied(name: str, empty: Callable[[Registry], None]) -> Callable[[Target], Outcome]:
    """Remove every model from the registry: the cached versions must still be served."""

    def run(target: Target) -> Outcome:
        workspace = target.workspace(name)
        registry = Registry(target, workspace)
        with target.service(workspace, TRACKING_URI=registry.uri) as service:
            empty(registry)
            start = time.monotonic()
            end = start + _SYNCED_SECONDS
            while time.monotonic() < end:
                status, _ = service.forecast(timeout=10)
                if status != 200:
                    return Outcome(False, f"forecasts are answered {status} after {time.monotonic() - start:.0f} s")
                if service.request("GET", "/health/ready")[1].get("last_problem"):
                    # a sync has refused the empty registry; wait for the next sync too
                    end = min(end, time.monotonic() + 6)
                time.sleep(0.2)
            seconds, left = time.monotonic() - start, len(list((workspace / "cache").glob("*/*/manifest.json")))
            problem = service.request("GET", "/health/ready")[1].get("last_problem")
        return Outcome(left > 0, f"forecasts go on for {seconds:.0f} s, {left} version cached; {str(problem)[:90]}")

    return run


ATTACKS = (
    Attack("a bundle that loops for ever", "B2", _champion("loop", edit_graph(_loop_for_ever))),
    Attack("a bundle that expands to 2.4 GB", "B2", _champion("expand", edit_graph(_expand), _LARGE_LIMIT)),
    Attack(
        "a manifest with an integer of 5,000 digits",
        "B3",
        _unreadable("digits", insert(MANIFEST, "horizon", "9" * 5000)),
    ),
    Attack("a calibration of 100,000 nested lists", "B3", _unreadable("deep", _DEEP)),
    Attack("a FIFO in place of a graph", "B3", _unreadable("fifo", pipe(MODEL))),
    Attack("a registry whose models are deleted", "B4", _emptied("emptied", _delete_all)),
    Attack("a registry's file of 0 bytes", "B4", _emptied("empty file", _empty_file)),
)
