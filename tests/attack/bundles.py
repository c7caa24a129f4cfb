"""Attacks through the registry: bundles that harm, a version among good ones that cannot be read, an emptied store."""

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

# a harmful champion alone; until a good one must serve, and a sync must have ended, also on a busy machine
_WATCHED_SECONDS, _SERVED_SECONDS, _SYNCED_SECONDS = 12, 60, 40
# a container is killed where a process without a limit of its own would only be refused the memory
_ROOM = 4096 * MIB


class Registry:
    """A copy of the trained model's MLflow store."""

    def __init__(self, target: Target, room: Path) -> None:
        import mlflow

        self.file = room / "mlflow.db"
        shutil.copyfile(target.store / "mlruns" / "mlflow.db", self.file)
        self.uri = f"sqlite:///{self.file}"
        self.client = mlflow.MlflowClient(self.uri)

    def publish(self, change: Damage = lambda folder: None, alias: str | None = None) -> int:
        """Register a changed copy of version 1, and return its number."""
        first = self.client.get_model_version("sine", "1")
        run = self.client.get_run(first.run_id)
        new = self.client.create_run(run.info.experiment_id)
        folder = Path(new.info.artifact_uri.removeprefix("file://")) / "model"
        shutil.copytree(Path(first.source.removeprefix("file://")), folder)
        change(folder)
        made = self.client.create_model_version("sine", str(folder), new.info.run_id)
        if alias:
            self.client.set_registered_model_alias("sine", alias, made.version)
        return int(made.version)


def _take_output(model: ModelProto) -> str:
    """Let the graph's answer be named `inner`, so that nodes can follow it; return the name that it had."""
    name: str = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if one == name else one for one in node.output]
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
            # of the answer, so that it cannot be reckoned once and for all
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
    """Publish a harmful champion, then a good one: the first serves until the last does, quickly, in its memory."""

    def run(target: Target) -> Outcome:
        room = target.room(name)
        registry = Registry(target, room)
        with target.service(room, limit, TRACKING_URI=registry.uri) as service:
            bad, good = registry.publish(change, "champion"), 0
            answered_by: list[int | None] = []
            begin = time.monotonic()
            while time.monotonic() < begin + _WATCHED_SECONDS + _SERVED_SECONDS and service.is_alive:
                answered_by.append(_answering_version(service))
                if not good and time.monotonic() > begin + _WATCHED_SECONDS:
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


def _answering_version(service: Service) -> int | None:
    try:
        status, answer = service.forecast(timeout=5)
    except OSError:
        return None
    return answer["model"]["version"] if status == 200 else None


def _among_good_ones(name: str, change: Damage) -> Callable[[Target], Outcome]:
    """Publish a version that cannot be read, then a good champion, which must be served."""

    def run(target: Target) -> Outcome:
        room = target.room(name)
        registry = Registry(target, room)
        with target.service(room, TRACKING_URI=registry.uri) as service:
            bad, good = registry.publish(change), registry.publish(alias="champion")
            begin = time.monotonic()
            while time.monotonic() < begin + _SERVED_SECONDS and _answering_version(service) != good:
                time.sleep(0.2)
            now = _answering_version(service)
            if now == good:
                return Outcome(True, f"version {good} is served {time.monotonic() - begin:.0f} s after it was promoted")
            problem = service.request("GET", "/health/ready")[1].get("last_problem")
        return Outcome(
            False, f"version {now} still serves {_SERVED_SECONDS} s after {good} was promoted, because of {bad}: "
            f"{str(problem)[:90]}",
        )  # fmt: skip

    return run


_DEEP = write(CALIBRATION, b"[" * 100_000 + b"]" * 100_000, hashed=True)


def _delete_all(registry: Registry) -> None:
    registry.client.delete_registered_model("sine")


def _empty_file(registry: Registry) -> None:
    registry.file.write_bytes(b"")


def _emptied(name: str, empty: Callable[[Registry], None]) -> Callable[[Target], Outcome]:
    """Take every model out of the registry: what is served must be served on."""

    def run(target: Target) -> Outcome:
        room = target.room(name)
        registry = Registry(target, room)
        with target.service(room, TRACKING_URI=registry.uri) as service:
            empty(registry)
            begin = time.monotonic()
            end = begin + _SYNCED_SECONDS
            while time.monotonic() < end:
                status, _ = service.forecast(timeout=10)
                if status != 200:
                    return Outcome(False, f"forecasts are answered {status} after {time.monotonic() - begin:.0f} s")
                if service.request("GET", "/health/ready")[1].get("last_problem"):
                    # a sync has refused it; what serves must go on serving after the next one too
                    end = min(end, time.monotonic() + 6)
                time.sleep(0.2)
            seconds, left = time.monotonic() - begin, len(list((room / "cache").glob("*/*/manifest.json")))
            problem = service.request("GET", "/health/ready")[1].get("last_problem")
        return Outcome(left > 0, f"forecasts go on for {seconds:.0f} s, {left} version cached; {str(problem)[:90]}")

    return run


ATTACKS = (
    Attack("a bundle that loops for ever", "B2", _champion("loop", edit_graph(_loop_for_ever))),
    Attack("a bundle that expands to 2.4 GB", "B2", _champion("expand", edit_graph(_expand), _ROOM)),
    Attack(
        "a manifest with an integer of 5,000 digits",
        "B3",
        _among_good_ones("digits", insert(MANIFEST, "horizon", "9" * 5000)),
    ),
    Attack("a calibration of 100,000 nested lists", "B3", _among_good_ones("deep", _DEEP)),
    Attack("a FIFO in place of a graph", "B3", _among_good_ones("fifo", pipe(MODEL))),
    Attack("a registry whose models are deleted", "B4", _emptied("emptied", _delete_all)),
    Attack("a registry's file of 0 bytes", "B4", _emptied("empty file", _empty_file)),
)
