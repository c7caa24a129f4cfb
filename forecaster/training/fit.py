"""The fit: early stopping, best weights, and a checkpoint after each epoch from which a killed fit ends the same.

The order of each epoch's windows depends on the seed and the epoch alone, and the checkpoint holds every variable
(weights, optimizer, dropout seeds), so starting again repeats the interrupted epoch exactly.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows
from forecaster.domain.config import Config
from forecaster.domain.errors import TrainingError, WorkspaceError
from forecaster.domain.files import write_atomically
from forecaster.domain.series import Floats, Inputs
from forecaster.models.topologies import Topology
from forecaster.training import networks

if TYPE_CHECKING:
    import keras

Float32 = NDArray[np.float32]
# how many input values are transformed at a time: bounds memory, and is long enough to keep Keras busy
CHUNK_VALUES = 2**23


class FitConfig(Config):
    """How a network is fitted.

    Args:
        epochs: at most so many.
        patience: epochs without a better validation loss before stopping.
        schedule: whether the learning rate stays or decays to 0 along a cosine over `epochs`.
        clip_norm: the largest norm of a gradient (of all weights together).
        mixed_precision: compute in float16 where a GPU gains from it; the exported weights are float32 either way.
    """

    epochs: int = Field(30, ge=1, le=100_000)
    batch_size: int = Field(64, ge=1, le=1_000_000)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    patience: int = Field(5, ge=1, le=100_000)
    clip_norm: float = Field(1.0, gt=0)
    loss: Literal["mean_squared_error", "mean_absolute_error", "huber"] = "mean_squared_error"
    mixed_precision: bool = False


@dataclass(frozen=True)
class Examples:
    """Windows as the network sees them: transformed, float32, made chunk by chunk."""

    windows: Windows
    preprocessing: Preprocessing
    topology: Topology

    def __len__(self) -> int:
        return len(self.windows)

    def take(self, index: NDArray[np.int64]) -> tuple[list[Float32], Float32]:
        """Return the network's inputs, as `Preprocessing.forward` has them, and targets as the topology has them."""
        raw = self.windows.inputs(index)
        inputs, contexts = self.preprocessing.forward(raw.values, raw.known)
        targets = self.preprocessing.target.targets(self.topology.targets(self.windows, index), contexts)
        return [one.astype(np.float32) for one in inputs], targets.astype(np.float32)

    def weights(self, count: int) -> Float32 | None:
        """Return each step's weight `(count, input_size)`, 0 where causal statistics are young; None if all count."""
        warm_up = self.preprocessing.target.warm_up
        if not warm_up:
            return None
        steps = np.ones(self.windows.input_size, dtype=np.float32)
        steps[: int(np.ceil(warm_up * len(steps)))] = 0
        return np.tile(steps, (count, 1))

    def chunks(self, index: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Yield `index` in chunks of whole batches that bound memory."""
        values = self.windows.input_size * (self.windows.horizon if self.topology.answers_each_step else 1)
        size = max(1, CHUNK_VALUES // (values * batch_size)) * batch_size
        for begin in range(0, len(index), size):
            yield index[begin : begin + size]


@dataclass
class History:
    """How far a fit is: losses by epoch, the best one, and whether it has ended."""

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int = -1
    is_finished: bool = False

    @property
    def epochs(self) -> int:
        """Return how many epochs are done."""
        return len(self.loss)


def fit(
    model: "keras.Model",
    config: FitConfig,
    train: Examples,
    validation: Examples | None,
    seed: int,
    checkpoint: Path,
    on_epoch: Callable[[int, float, float | None], None],
    label: str,
    epochs: int | None = None,
) -> History:
    """Fit `model` in place, continuing from `checkpoint` where there is one; it ends with the best weights.

    Args:
        model: as `build_model` made it, or already compiled.
        config: how.
        train: what it learns from.
        validation: what chooses the epoch; None keeps the last.
        seed: decides the order of the windows.
        checkpoint: the `.npz` file that holds the state after each epoch; left in place when the fit ends.
        on_epoch: called with the epoch's number from 0, its loss and its validation loss; after a kill maybe twice.
        label: what the progress bar is called.
        epochs: end after so many, on the learning rates of `config.epochs`; all of them when None.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint cannot be written or is of another network.
    """
    batch_size = min(config.batch_size, len(train))
    epochs = epochs or config.epochs
    if not model.compiled:
        networks.compile_network(model, config, batches=len(train) // batch_size)
    history, best = _restore(model, checkpoint)
    with tqdm(
        total=epochs,
        initial=history.epochs,
        desc=label,
        unit="epoch",
        dynamic_ncols=True,
        # an audit runs many fits of one epoch and has a bar of its own
        disable=epochs == 1,
    ) as bar:
        while not history.is_finished:
            epoch = history.epochs
            loss = _run_epoch(model, train, batch_size, np.random.default_rng((seed, epoch)))
            held_out = validation_loss(model, config, validation) if validation else None
            _check_finite(loss, held_out, epoch)
            history.loss.append(loss)
            if held_out is not None:
                history.validation_loss.append(held_out)
            if held_out is None or held_out <= min(history.validation_loss):
                history.best_epoch, best = epoch, model.get_weights()
            history.is_finished = epoch + 1 >= epochs or epoch - history.best_epoch >= config.patience
            # told before it is saved: killed in between, an epoch is told twice, and never left out
            on_epoch(epoch, loss, held_out)
            _save(model, history, best, checkpoint)
            bar.set_postfix({"loss": loss} | ({} if held_out is None else {"validation": held_out}), refresh=False)
            bar.update()
    model.set_weights(best)
    return history


def validation_loss(model: "keras.Model", config: FitConfig, examples: Examples) -> float:
    """Return the loss of the forecasts proper (the last step of a many-to-many answer), in the transformed space."""
    import keras

    compute = keras.losses.get(config.loss)
    total = 0.0
    for chunk in examples.chunks(np.arange(len(examples)), config.batch_size):
        inputs, targets = examples.take(chunk)
        outputs = predict(model, inputs)
        errors = compute(examples.topology.last(targets), examples.topology.last(outputs))
        total += float(np.sum(keras.ops.convert_to_numpy(errors)))
    return total / len(examples)


def predict(model: "keras.Model", inputs: list[Float32], batch_size: int = 512) -> Float32:
    """Return the network's outputs for `inputs`, batch by batch; every batch has one shape, so none is traced anew."""
    size = min(batch_size, len(inputs[0]))
    outputs = []
    for begin in range(0, len(inputs[0]), size):
        batch = [one[begin : begin + size] for one in inputs]
        count = len(batch[0])
        padded = [np.concatenate([one, np.zeros((size - count, *one.shape[1:]), np.float32)]) for one in batch]
        outputs.append(np.asarray(model.predict_on_batch(padded))[:count])
    return np.concatenate(outputs)


def predict_raw(model: "keras.Model", preprocessing: Preprocessing, topology: Topology, inputs: Inputs) -> Floats:
    """Return raw forecasts `(n, horizon)` for raw inputs, through Keras and numpy."""
    prepared, contexts = preprocessing.forward(inputs.values, inputs.known)
    outputs = topology.last(predict(model, [one.astype(np.float32) for one in prepared]))
    target = preprocessing.target
    return np.asarray(target.inverse(outputs.astype(np.float64), target.last_contexts(contexts)))


def _run_epoch(model: "keras.Model", train: Examples, batch_size: int, random: np.random.Generator) -> float:
    order = random.permutation(len(train))
    # whole batches only: another shape would be compiled anew, and the next epoch's order leaves out others
    order = order[: len(order) // batch_size * batch_size]
    total = 0.0
    for chunk in train.chunks(order, batch_size):
        inputs, targets = train.take(chunk)
        fitted = model.fit(
            inputs, targets, batch_size, sample_weight=train.weights(len(chunk)), shuffle=False, verbose=0
        )
        total += fitted.history["loss"][0] * len(chunk)
    return float(total / len(order))


def _check_finite(loss: float, held_out: float | None, epoch: int) -> None:
    if not np.isfinite(loss) or (held_out is not None and not np.isfinite(held_out)):
        raise TrainingError(
            f"epoch {epoch}: the loss is not finite (train {loss}, validation {held_out}); lower fit.learning_rate or "
            "fit.clip_norm, or add a transform such as standardize"
        )


def _save(model: "keras.Model", history: History, best: list[Any], checkpoint: Path) -> None:
    import keras

    arrays = {f"v{number}": keras.ops.convert_to_numpy(v) for number, v in enumerate(networks.variables(model))}
    arrays |= {f"b{number}": array for number, array in enumerate(best)}
    try:
        with write_atomically(checkpoint, is_locked=True) as draft, draft.open("wb") as file:
            np.savez(file, history=np.array(json.dumps(asdict(history))), **arrays)
    except OSError as error:
        raise WorkspaceError(
            f"{checkpoint}: the checkpoint cannot be written ({error}); free space, start again"
        ) from error


def _restore(model: "keras.Model", checkpoint: Path) -> tuple[History, list[Any]]:
    if not checkpoint.exists():
        return History(), model.get_weights()
    variables = networks.variables(model)
    try:
        with checkpoint.open("rb") as content, np.load(content, allow_pickle=False) as file:
            saved = dict(file)
        shapes = [saved[f"v{number}"].shape for number in range(sum(name[0] == "v" for name in saved))]
        best = [saved[f"b{number}"] for number in range(len(model.get_weights()))]
        history = History(**json.loads(str(saved["history"])))
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{checkpoint}: cannot be read ({error}); remove it and start again") from error
    if shapes != [tuple(variable.shape) for variable in variables]:
        raise TrainingError(f"{checkpoint}: is of another network; remove it and start again")
    for number, variable in enumerate(variables):
        variable.assign(saved[f"v{number}"])
    return history, best
