"""Every combination of a network's parts that is not refused, enumerated from their declarations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, product
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from forecaster.data.preprocessing import Preprocessing
from forecaster.data.transforms import Chain, Standardize
from forecaster.domain.config import Config
from forecaster.domain.manifest import describe_inputs
from forecaster.domain.series import Inputs
from forecaster.domain.static import StaticColumns
from forecaster.models.cells import CELLS
from forecaster.models.decoders import AnyDecoder, Seq2Seq
from forecaster.models.heads import AnyHead
from forecaster.models.network import ModelConfig, build_model, output_shapes
from forecaster.models.refusals import Design, find_refusals
from forecaster.models.shape import NetworkShape
from forecaster.models.trained import TrainedNetwork

INPUT_SIZE, HORIZON = 6, 4
TRANSFORMS: tuple[dict[str, Any], ...] = ({"kind": "log"}, {"kind": "last_value"}, {"kind": "standardize"})

ENCODERS: dict[str, dict[str, Any]] = {
    "one layer": {"widths": [5]},
    "dropout": {"widths": [5, 4], "dropout": 0.2, "recurrent_dropout": 0.2},
    "residual": {"widths": [5, 5], "residual": True},
    "residual of other widths": {"widths": [5, 4], "residual": True},
    "bidirectional": {"widths": [4], "bidirectional": True},
    "dilated": {"widths": [4, 4], "dilations": [1, 2]},
    "segments": {"widths": [5], "segment_length": 2},
    "all": {"widths": [4, 3], "bidirectional": True, "residual": True, "dilations": [1, 3], "segment_length": 2},
}
INPUTS: dict[str, dict[str, Any]] = {
    "target": {"shape": {}},
    "exogenous": {"shape": {"values": 3, "known": 2}},
    "shared channels": {"shape": {"values": 3, "known": 2}, "inputs": {"channels": "shared"}},
    "static": {"shape": {"numbers": 2, "categories": (3,)}},
    "series": {"shape": {"known": 1, "n_series": 5}, "inputs": {"series_embedding": 3}},
    # two columns, and for each another that says which values are observed
    "missing": {"shape": {"values": 4, "known": 1}, "is_masked": True},
}


def members(union: Any) -> tuple[type[Config], ...]:
    """Return the classes of a discriminated union that also takes names."""
    return get_args(get_args(union)[0])


def _decoders() -> list[Config]:
    attention = get_args(Seq2Seq.model_fields["attention"].annotation)
    plain = [kind() for kind in members(AnyDecoder) if kind is not Seq2Seq]
    return [*plain, *(Seq2Seq(attention=kind) for kind in attention)]


# each part by name
PARTS: dict[str, dict[str, Any]] = {
    "cell": {name: name for name in CELLS},
    "encoder": ENCODERS,
    "decoder": {"-".join(map(str, decoder.model_dump().values())): decoder for decoder in _decoders()},
    "head": {str(head().model_dump()["kind"]): head() for head in members(AnyHead)},
    "inputs": INPUTS,
    "sum": {"plain": {}, "skip": {"skip": "ridge"}, "members": {"members": 2}, "both": {"skip": "ridge", "members": 2}},
}


@dataclass(frozen=True)
class Combination:
    """A network's parts by name, its configuration and shape, and whether values may be missing."""

    names: tuple[str, ...]
    config: ModelConfig
    shape: NetworkShape
    is_masked: bool = False

    def __str__(self) -> str:
        return " · ".join(self.names)

    @property
    def refusals(self) -> list[str]:
        """Return why the combination cannot work; empty if it can."""
        kinds = [transform["kind"] for transform in TRANSFORMS]
        return find_refusals(Design(self.config, self.shape, kinds, is_masked=self.is_masked))


def combine(names: Sequence[str]) -> Combination:
    """Return the combination of parts with these names, in the order of `PARTS`."""
    cell, encoder, decoder, head, inputs, summed = (PARTS[part][name] for part, name in zip(PARTS, names, strict=True))
    raw = {"cell": cell, "encoder": encoder, "decoder": decoder, "head": head} | summed
    config = ModelConfig.model_validate(raw | {"inputs": inputs.get("inputs", {})})
    shape = NetworkShape(INPUT_SIZE, HORIZON, **inputs["shape"])
    return Combination(tuple(names), config, shape, inputs.get("is_masked", False))


def every_combination() -> Iterator[Combination]:
    """Yield all combinations that are not refused."""
    for names in product(*PARTS.values()):
        combination = combine(names)
        if not combination.refusals:
            yield combination


def every_network() -> list[Combination]:
    """Return every combination of the other parts once: the values of `sum` alternate where they are possible."""
    networks = groupby(every_combination(), lambda combination: combination.names[:-1])
    choices = [list(alternatives) for _, alternatives in networks]
    return [alternatives[number % len(alternatives)] for number, alternatives in enumerate(choices)]


def cover(size: int) -> list[Combination]:
    """Return combinations in which every `size` parts that can occur together do: 1 for each part, 2 for each pair."""
    candidates = list(every_combination())
    groups = [set(combinations(enumerate(combination.names), size)) for combination in candidates]
    missing, chosen = set().union(*groups), []
    while missing:
        best = int(np.argmax([len(own & missing) for own in groups]))
        chosen.append(candidates[best])
        missing -= groups[best]
    return chosen


def target_shape(trained: TrainedNetwork) -> tuple[int, ...]:
    """Return the shape of the targets that a network learns from, without the batch axis."""
    shape = tuple(trained.model.output_shape[1:-1])
    return shape if trained.config.members == 1 else shape[:-1]


def trained_network(combination: Combination, random: np.random.Generator) -> tuple[TrainedNetwork, Inputs]:
    """Return a network with random weights, biases included, its preprocessing fitted to inputs, and these inputs."""
    config, shape, is_masked = combination.config, combination.shape, combination.is_masked
    inputs = _inputs(combination, random)
    is_causal = config.decoder.answers_each_step
    preprocessing = Preprocessing(
        target=Chain(steps=TRANSFORMS, is_causal=is_causal, is_masked=is_masked),
        is_masked=is_masked,
        hist=(Chain(steps=(Standardize(),), is_causal=is_causal, is_masked=is_masked),) * (inputs.values.shape[2] - 1),
        known=(Standardize(),) * shape.known,
        numbers=(Standardize(),) * shape.numbers,
        sizes=((shape.n_series,) if shape.n_series else ()) + shape.categories,
    ).fit(lambda: [inputs])
    model = build_model(config, shape, seed=3)
    model.set_weights([weight + random.normal(0, 0.2, weight.shape) for weight in model.get_weights()])
    return TrainedNetwork(model, config, shape, preprocessing), inputs


def _inputs(combination: Combination, random: np.random.Generator, count: int = 7) -> Inputs:
    """Return positive values like prices; some positions in embeddings are those of unknown series or categories.

    If values may be missing, a third of them are, also at either end of a window.
    """
    shape = combination.shape
    columns = shape.values // 2 if combination.is_masked else shape.values
    walks = random.normal(0, 0.1, (count, INPUT_SIZE, columns)).cumsum(axis=1)
    if combination.is_masked:
        walks[random.uniform(size=walks.shape) < 1 / 3] = np.nan
        walks[0, 0, 0] = walks[1, -1, 0] = np.nan
    known = random.normal(size=(count, INPUT_SIZE + HORIZON, shape.known)) if shape.known else None
    sizes = ((shape.n_series,) if shape.n_series else ()) + shape.categories
    static: NDArray[np.float64] | None = None
    if shape.numbers or sizes:
        codes = [random.integers(0, size, (count, 1)) for size in sizes]
        static = np.concatenate([random.normal(size=(count, shape.numbers)), *codes], axis=1)
    return Inputs(50 * np.exp(walks), known, static)


def static_columns(shape: NetworkShape) -> StaticColumns:
    """Return made-up names of the static columns, and of the values that their embeddings know."""
    numbers = tuple(f"number_{number}" for number in range(shape.numbers))
    series = tuple(f"series {position}" for position in range(1, shape.n_series))
    categories = {
        f"category_{number}": tuple(f"value {position}" for position in range(1, size))
        for number, size in enumerate(shape.categories)
    }
    return StaticColumns(numbers, series, categories)


def manifest_fields(name: str, trained: TrainedNetwork) -> dict[str, Any]:
    """Return the fields of a network's manifest as a training would fill them in."""
    config, shape, preprocessing = trained.config, trained.shape, trained.preprocessing
    hist = {f"hist_{number}": chain for number, chain in enumerate(preprocessing.hist)}
    futr = {f"futr_{number}": scale.model_dump() for number, scale in enumerate(preprocessing.known)}
    numbers = {f"number_{number}": scale.model_dump() for number, scale in enumerate(preprocessing.numbers)}
    categories = {name: {"values": values} for name, values in static_columns(shape).categories.items()}
    day = "2026-01-01T00:00:00+00:00"
    return {
        "name": name,
        "topology": config.topology,
        "cell": config.cell,
        "encoder": config.encoder.model_dump(),
        "decoder": config.decoder.model_dump(),
        "head": config.head.model_dump(),
        "inputs": describe_inputs(shape.input_size, shape.horizon, [*hist], [*futr], static_columns(shape).names),
        "outputs": output_shapes(config, shape),
        "input_size": shape.input_size,
        "horizon": shape.horizon,
        "max_horizon": shape.horizon,
        "freq": "h",
        "transforms": [step.model_dump() for step in preprocessing.target.steps],
        "is_positive": preprocessing.target.needs_positive,
        "hist_exog": {column: [step.model_dump() for step in chain.steps] for column, chain in hist.items()},
        "futr_exog": futr,
        "stat_exog": numbers | categories,
        "series": static_columns(shape).series,
        "missing": "mask" if preprocessing.is_masked else "refuse",
        "training_data": {"digest": "0", "n_series": 1, "rows": 100, "first": day, "last": day},
        "trained_until": day,
        "recipe_metrics": {},
        "skill": {"baseline": "naive", "relative_mae": 1, "n_windows": 1, "n_effective": 1},
        "created_at": day,
    }
