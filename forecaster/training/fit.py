"""Fit a network: early stopping, best weights, and a checkpoint after each epoch.

A fit that resumes from a checkpoint ends with the same weights as an uninterrupted fit. The order of an epoch's windows
depends only on the seed and the epoch, and a checkpoint holds every variable (weights, optimizer, dropout seeds).
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.windows import Windows
from forecaster.domain.errors import TrainingError, WorkspaceError
from forecaster.domain.files import write_atomically
from forecaster.models.network import ModelConfig
from forecaster.models.trained import Float32, network_inputs, predict_batches
from forecaster.training import networks
from forecaster.training.fit_config import FitConfig

if TYPE_CHECKING:
    import keras

# input values that are transformed at a time: few enough to bound memory, enough to keep Keras busy
CHUNK_VALUES = 2**23


@dataclass(frozen=True)
class Examples:
    """Windows as the network's input: transformed, in float32, computed chunk by chunk."""

    windows: Windows
    preprocessing: Preprocessing
    model: ModelConfig

    def __len__(self) -> int:
        return len(self.windows)

    def take(self, index: NDArray[np.int64]) -> tuple[list[NDArray[Any]], Float32]:
        """Return the network's inputs, and the targets that the decoder learns from."""
        prepared, contexts = self.preprocessing.forward(self.windows.inputs(index).feeds)
        targets = self.preprocessing.target.targets(self.model.decoder.targets(self.windows, index), contexts)
        return network_inputs(prepared), targets.astype(np.float32)

    def weights(self, count: int) -> Float32 | None:
        """Return the loss weight of each step, `(count, input_size)`; None if every step has weight 1.

        The first steps have weight 0 if a transform's running statistics are still based on few values there.
        """
        warm_up = self.preprocessing.target.warm_up
        if not warm_up:
            return None
        steps = np.ones(self.windows.input_size, dtype=np.float32)
        steps[: int(np.ceil(warm_up * len(steps)))] = 0
        return np.tile(steps, (count, 1))

    def chunks(self, index: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Yield `index` in chunks of whole batches, each small enough to bound memory."""
        values = self.windows.input_size * (self.windows.horizon if self.model.decoder.answers_each_step else 1)
        size = max(1, CHUNK_VALUES // (values * batch_size)) * batch_size
        for begin in range(0, len(index), size):
            yield index[begin : begin + size]


@dataclass
class History:
    """The losses of the epochs so far, the best epoch, and whether the fit has ended."""

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int = -1
    is_finished: bool = False

    @property
    def epochs(self) -> int:
        """Return the number of finished epochs."""
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
    """Fit `model` in place and leave it with its best weights; resume from `checkpoint` if it exists.

    Args:
        model: the untrained network, compiled or not.
        config: how to fit it.
        train: the training examples.
        validation: the examples that choose the best epoch; with None, the last epoch is the best.
        seed: decides the order of the windows.
        checkpoint: the `.npz` file that holds the state after each epoch; it stays when the fit ends.
        on_epoch: called with the epoch's number (from 0), its loss and its validation loss. An epoch that a kill
            interrupts may be reported twice.
        label: the progress bar's label.
        epochs: end after this many epochs, with the learning rates of `config.epochs`; None runs all of them.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint cannot be read or belongs to another network.
        WorkspaceError: the checkpoint cannot be written.
    """
    batch_size = min(config.batch_size, len(train))
    epochs = epochs or config.epochs
    if not model.compiled:
        networks.compile_network(
            model, train.model.head, config, len(train) // batch_size, train.preprocessing.is_masked
        )
    history, best = _restore(model, checkpoint)
    with tqdm(
        total=epochs,
        initial=history.epochs,
        desc=label,
        unit="epoch",
        dynamic_ncols=True,
        # an audit runs many fits of one epoch, and has its own progress bar
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
            # before the checkpoint is saved, so that a kill in between repeats the report and never loses it
            on_epoch(epoch, loss, held_out)
            _save(model, history, best, checkpoint)
            bar.set_postfix({"loss": loss} | ({} if held_out is None else {"validation": held_out}), refresh=False)
            bar.update()
    model.set_weights(best)
    return history


def validation_loss(model: "keras.Model", config: FitConfig, examples: Examples) -> float:
    """Return the loss of the forecasts in the transformed space; of a many-to-many output, only the last step's."""
    import keras

    compute = networks.loss_of(examples.model.head, examples.preprocessing.is_masked).call
    last, total = examples.model.decoder.last, 0.0
    for chunk in examples.chunks(np.arange(len(examples)), config.batch_size):
        inputs, targets = examples.take(chunk)
        outputs = predict_batches(model, inputs)
        errors = compute(last(targets), last(outputs))
        total += float(np.sum(keras.ops.convert_to_numpy(errors)))
    return total / len(examples)


def _run_epoch(model: "keras.Model", train: Examples, batch_size: int, random: np.random.Generator) -> float:
    order = random.permutation(len(train))
    # whole batches only: another shape would be compiled again; the windows left out differ by epoch
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
            f"{checkpoint}: the checkpoint cannot be written ({error}); free disk space and start again"
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
        raise TrainingError(f"{checkpoint}: belongs to another network; remove it and start again")
    for number, variable in enumerate(variables):
        variable.assign(saved[f"v{number}"])
    return history, best
