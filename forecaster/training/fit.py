"""Fit a network: the regression beside it, early stopping, best weights, and a checkpoint after each epoch.

A fit that resumes from a checkpoint ends with the same weights as an uninterrupted fit. The order of an epoch's windows
depends only on the seed and the epoch, and a checkpoint holds every variable (weights, optimizer, dropout seeds).
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from forecaster.domain.errors import TrainingError, WorkspaceError
from forecaster.domain.files import write_atomically
from forecaster.domain.series import Floats
from forecaster.evaluation.ridge import Moments, sum_moments
from forecaster.models.names import HEAD, SKIP
from forecaster.models.network import forecast_parameters
from forecaster.models.trained import Float32, predict_batches
from forecaster.training import networks, stateful
from forecaster.training.divergence import check_not_diverging, loss_of_zeros
from forecaster.training.examples import Examples
from forecaster.training.fit_config import FitConfig
from forecaster.training.optimizer import clipped_steps

if TYPE_CHECKING:
    import keras

# windows that the loss of a forecast of 0 is measured on
_SAMPLE = 256


@dataclass
class History:
    """What is known of a fit so far.

    Args:
        loss: the loss of each epoch.
        validation_loss: the validation loss of each epoch; empty without a validation part.
        clipped: the share of the batches of each epoch whose gradient was clipped; empty if a state is carried.
        best_epoch: the epoch whose weights are kept.
        is_finished: whether the fit has ended.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    clipped: list[float] = field(default_factory=list)
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
        epochs: end after this many epochs, with the learning rates of `config.epochs`; None runs all of them. With 0,
            the network is left out: its answer is 0.

    Raises:
        TrainingError: the fit diverges, or the checkpoint cannot be read or belongs to another network.
        WorkspaceError: the checkpoint cannot be written.
    """
    batch_size = min(config.batch_size, len(train))
    epochs, head = config.epochs if epochs is None else epochs, train.model.head
    of_zeros = loss_of_zeros(head, _sample_targets(train))
    fitted, run_epoch = _prepare(model, config, train, seed, batch_size)
    if checkpoint.exists():
        history, best = _restore(fitted, len(model.get_weights()), checkpoint)
    else:
        if train.model.skip == "ridge":
            _fit_skip(model, train, batch_size)
        if epochs == 0:
            _silence(model)
        history, best = History(is_finished=epochs == 0), model.get_weights()
    with tqdm(
        total=epochs,
        initial=history.epochs,
        desc=label,
        unit="epoch",
        dynamic_ncols=True,
        # an audit runs many fits of one epoch, and has its own progress bar
        disable=epochs <= 1,
    ) as bar:
        while not history.is_finished:
            epoch, clipped_before = history.epochs, clipped_steps(fitted)
            loss = run_epoch(np.random.default_rng((seed, epoch)))
            with networks.averaged_weights(fitted, config):
                if config.stateful:
                    stateful.copy_weights(fitted, model)
                weights = model.get_weights()
                held_out = validation_loss(model, config, validation) if validation else None
            check_not_diverging(head, epoch, loss, held_out, weights, of_zeros)
            history.loss.append(loss)
            if not config.stateful:
                history.clipped.append((clipped_steps(fitted) - clipped_before) / (len(train) // batch_size))
            if held_out is not None:
                history.validation_loss.append(held_out)
            if held_out is None or held_out <= min(history.validation_loss):
                history.best_epoch, best = epoch, weights
            history.is_finished = epoch + 1 >= epochs or epoch - history.best_epoch >= config.patience
            # before the checkpoint is saved, so that a kill in between repeats the report and never loses it
            on_epoch(epoch, loss, held_out)
            _save(fitted, history, best, checkpoint)
            bar.set_postfix({"loss": loss} | ({} if held_out is None else {"validation": held_out}), refresh=False)
            bar.update()
    model.set_weights(best)
    return history


def _prepare(
    model: "keras.Model", config: FitConfig, train: Examples, seed: int, batch_size: int
) -> tuple["keras.Model", Callable[[np.random.Generator], float]]:
    """Return the compiled network that is fitted, and a function that fits an epoch and returns its loss.

    It shares the weights of `model`; with a carried state, it is a network that reads streams and starts from them.
    """
    if not config.stateful:
        if not model.compiled:
            batches = networks.Batches(batch_size, len(train) // batch_size)
            is_masked = train.preprocessing.is_masked
            model = networks.compile_network(model, train.model, config, batches, is_masked)
        return model, partial(_run_epoch, model, train, batch_size)
    streams = stateful.Streams(train, config, config.stateful)
    reader = stateful.reader_of(model, streams, seed)
    return reader, partial(stateful.run_epoch, reader, streams)


def validation_loss(model: "keras.Model", config: FitConfig, examples: Examples) -> float:
    """Return the loss of the forecasts in the transformed space; of a many-to-many output, only the last step's."""
    import keras

    compute = networks.loss_of(examples.model.head, examples.preprocessing.is_masked).call
    last, total = examples.model.decoder.last, 0.0
    for chunk in examples.chunks(np.arange(len(examples)), config.batch_size):
        inputs, targets = examples.take(chunk)
        outputs = predict_batches(model, inputs)
        errors = compute(last(targets), forecast_parameters(examples.model, outputs))
        total += float(np.sum(keras.ops.convert_to_numpy(errors)))
    return total / len(examples)


def _fit_skip(model: "keras.Model", train: Examples, batch_size: int) -> None:
    """Set the regression beside the network to the best one for these windows, whatever the network starts from."""
    model.get_layer(SKIP).set_weights(skip_moments(train, batch_size).solve(train.model.skip_penalty))


def skip_moments(train: Examples, batch_size: int) -> Moments:
    """Return what determines the regression beside the network, from windows that are read in chunks of batches."""

    def pairs() -> Iterator[tuple[Floats, Floats]]:
        for chunk in train.chunks(np.arange(len(train)), batch_size):
            (x, *_), targets = train.take(chunk)
            yield x[:, :, 0].astype(np.float64), targets.astype(np.float64)

    return sum_moments(pairs())


def _silence(model: "keras.Model") -> None:
    """Make a network answer 0, which adds nothing to the regression beside it or to what the transforms restore."""
    for layer in model.layers:
        # each member has a head
        if layer.name == HEAD or layer.name.endswith(f"_{HEAD}"):
            layer.set_weights([np.zeros_like(weights) for weights in layer.get_weights()])


def _run_epoch(model: "keras.Model", train: Examples, batch_size: int, random: np.random.Generator) -> float:
    order = random.permutation(len(train))
    # whole batches only: another shape would be compiled again; the windows left out differ by epoch
    order = order[: len(order) // batch_size * batch_size]
    total = 0.0
    for chunk in train.chunks(order, batch_size):
        inputs, targets = train.take(chunk, random)
        total += networks.fit_batches(model, batch_size, inputs, targets, train.weights(len(chunk))) * len(chunk)
    return float(total / len(order))


def _sample_targets(train: Examples) -> Float32:
    """Return the targets of a few windows from all of `train`."""
    index = np.unique(np.linspace(0, len(train) - 1, _SAMPLE).astype(np.int64))
    return train.take(next(train.chunks(index, 1)))[1]


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


def _restore(model: "keras.Model", n_weights: int, checkpoint: Path) -> tuple[History, list[Any]]:
    variables = networks.variables(model)
    try:
        with checkpoint.open("rb") as content, np.load(content, allow_pickle=False) as file:
            saved = dict(file)
        shapes = [saved[f"v{number}"].shape for number in range(sum(name[0] == "v" for name in saved))]
        best = [saved[f"b{number}"] for number in range(n_weights)]
        history = History(**json.loads(str(saved["history"])))
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{checkpoint}: cannot be read ({error}); remove it and start again") from error
    if shapes != [tuple(variable.shape) for variable in variables]:
        raise TrainingError(f"{checkpoint}: belongs to another network; remove it and start again")
    for number, variable in enumerate(variables):
        variable.assign(saved[f"v{number}"])
    return history, best
