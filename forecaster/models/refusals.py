"""Combinations of settings that cannot work, and why. Add a combination to `REFUSALS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forecaster.models.decoders import SegmentParallel
from forecaster.models.heads import Point, Quantile, StudentT
from forecaster.models.network import ModelConfig
from forecaster.models.shape import NetworkShape

# transforms whose result depends on where a window begins
_OF_A_WINDOW = {"mean_std", "last_value", "last_season"}
# a matrix of this many rows and columns has 128 MiB
MAX_RIDGE_INPUTS = 4096


@dataclass(frozen=True)
class Design:
    """The settings that may conflict.

    Args:
        model: the network's configuration.
        shape: its shape.
        transforms: the kinds of the target's transforms.
        hist_transforms: the kinds of the transforms of all `hist_exog`.
        is_stateful: whether the fit carries the state of a series from chunk to chunk.
        is_masked: whether values may be missing.
        is_fitted: whether the network is fitted for an epoch or more.
    """

    model: ModelConfig
    shape: NetworkShape
    transforms: Sequence[str]
    hist_transforms: Sequence[str] = ()
    is_stateful: bool = False
    is_masked: bool = False
    is_fitted: bool = True

    @property
    def steps(self) -> int:
        """Return how many steps or segments the recurrent layers read."""
        return self.shape.input_size // self.model.encoder.segment_length

    @property
    def is_segment_parallel(self) -> bool:
        """Return whether the decoder forecasts segments."""
        return isinstance(self.model.decoder, SegmentParallel)


@dataclass(frozen=True)
class Refusal:
    """A combination of settings that cannot work.

    Args:
        settings: the settings that conflict, as the configuration spells them.
        applies: whether a design has this combination.
        reason: why it cannot work, and what to do instead.
    """

    settings: str
    applies: Callable[[Design], bool]
    reason: str


def _does_not_divide(design: Design) -> bool:
    """Return whether a layer's dilation does not divide its steps."""
    return any(design.steps % dilation for dilation in design.model.encoder.dilations)


REFUSALS = (
    Refusal(
        "decoder: each_step and encoder.bidirectional",
        lambda design: design.model.decoder.answers_each_step and design.model.encoder.bidirectional,
        "reading backwards lets a step see the later steps that it forecasts; choose another decoder",
    ),
    Refusal(
        "decoder: each_step and encoder.segment_length",
        lambda design: design.model.decoder.answers_each_step and design.model.encoder.segment_length > 1,
        "each row must forecast, but a segment folds several rows into a step; set segment_length: 1",
    ),
    Refusal(
        "decoder: each_step and skip: ridge",
        lambda design: design.model.decoder.answers_each_step and design.model.skip == "ridge",
        "the regression is fitted on whole windows, and the first steps have seen only part of theirs; set skip: none",
    ),
    Refusal(
        "input_size and skip: ridge",
        lambda design: design.shape.input_size > MAX_RIDGE_INPUTS and design.model.skip == "ridge",
        f"the regression solves as many equations as there are inputs; set input_size to at most {MAX_RIDGE_INPUTS}",
    ),
    Refusal(
        "head and transforms: difference",
        lambda design: not design.model.head.sums_steps and "difference" in design.transforms,
        "the forecast is the sum of forecast differences, but quantiles do not add up; use last_value instead",
    ),
    Refusal(
        "head: quantile and transforms: last_season",
        lambda design: isinstance(design.model.head, Quantile) and "last_season" in design.transforms,
        "the quantiles of all steps are converted as one row, which a season does not fit; use last_value instead",
    ),
    Refusal(
        "decoder: each_step and transforms: last_season",
        lambda design: design.model.decoder.answers_each_step and "last_season" in design.transforms,
        "the first steps forecast too, and have no season before them; choose another decoder",
    ),
    Refusal(
        "fit.epochs: 0 and head",
        lambda design: not design.is_fitted and not isinstance(design.model.head, Point),
        "without an epoch nothing learns the spread; use head: point, or set fit.epochs to at least 1",
    ),
    Refusal(
        "head: student_t and transforms: log1p",
        lambda design: isinstance(design.model.head, StudentT) and "log1p" in design.transforms,
        "the distribution is that of logarithms, and only log has its inverse; use log, or head: quantile",
    ),
    Refusal(
        "missing: mask and transforms: difference",
        lambda design: design.is_masked and "difference" in (*design.transforms, *design.hist_transforms),
        "the difference to a missing value is missing too, so that each gap loses another row; use last_value instead",
    ),
    Refusal(
        "missing: mask and transforms: last_season",
        lambda design: design.is_masked and "last_season" in (*design.transforms, *design.hist_transforms),
        "the difference to a missing value is missing too, so that each gap loses another row; use last_value instead",
    ),
    Refusal(
        "missing: mask and skip: ridge",
        lambda design: design.is_masked and design.model.skip == "ridge",
        "the regression would read the 0 that replaces a missing value as an observed 0; set skip: none",
    ),
    Refusal(
        "missing: mask and inputs.channels: shared",
        lambda design: design.is_masked and design.model.inputs.channels == "shared",
        "the encoder would read the indicator of missing values as a channel; use mixed channels",
    ),
    Refusal(
        "input_size and encoder.segment_length",
        lambda design: design.shape.input_size % design.model.encoder.segment_length > 0,
        "input_size must be a multiple of segment_length",
    ),
    Refusal(
        "decoder: segment_parallel and encoder.segment_length",
        lambda design: design.is_segment_parallel and design.model.encoder.segment_length == 1,
        "the decoder forecasts segments as long as the encoder's; set segment_length above 1",
    ),
    Refusal(
        "decoder: segment_parallel and horizon",
        lambda design: design.is_segment_parallel and design.shape.horizon % design.model.encoder.segment_length > 0,
        "horizon must be a multiple of encoder.segment_length",
    ),
    Refusal(
        "decoder: segment_parallel and encoder.bidirectional",
        lambda design: design.is_segment_parallel and design.model.encoder.bidirectional,
        "the encoder's last layer continues over the horizon, which cannot be read backwards; set bidirectional: false",
    ),
    Refusal(
        "decoder: segment_parallel and encoder.residual",
        lambda design: (
            design.is_segment_parallel and design.model.encoder.residual and len(design.model.encoder.widths) > 1
        ),
        "the encoder's last layer continues over the horizon, where no layer below adds to it; set residual: false",
    ),
    Refusal(
        "decoder: segment_parallel and inputs.channels: shared",
        lambda design: design.is_segment_parallel and design.model.inputs.channels == "shared",
        "the encoder's last layer continues over the horizon, but each channel has its own states; use mixed channels",
    ),
    Refusal(
        "encoder.dilations and encoder.widths",
        lambda design: (
            bool(design.model.encoder.dilations)
            and len(design.model.encoder.dilations) != len(design.model.encoder.widths)
        ),
        "each layer needs a dilation; give as many dilations as widths",
    ),
    Refusal(
        "encoder.dilations and input_size",
        _does_not_divide,
        "each dilation must divide input_size / segment_length",
    ),
    Refusal(
        "fit.stateful and decoder",
        lambda design: design.is_stateful and not design.model.decoder.answers_each_step,
        "the rows of a series are read once, so each must forecast; set decoder: each_step",
    ),
    Refusal(
        "fit.stateful and transforms",
        lambda design: (
            design.is_stateful and not _OF_A_WINDOW.isdisjoint([*design.transforms, *design.hist_transforms])
        ),
        "mean_std, last_value and last_season depend on where a window begins, but a carried state has no window; use "
        "standardize",
    ),
    Refusal(
        "fit.stateful and encoder.dilations",
        lambda design: design.is_stateful and any(dilation > 1 for dilation in design.model.encoder.dilations),
        "a dilated layer keeps a state for each phase, which a chunk may begin within; set dilations to 1",
    ),
    Refusal(
        "fit.stateful and inputs.channels: shared",
        lambda design: design.is_stateful and design.model.inputs.channels == "shared",
        "one state is carried for each series, but each channel has states of its own; use mixed channels",
    ),
)


def find_refusals(design: Design) -> list[str]:
    """Return a sentence for each combination of settings that cannot work: the settings, and the reason."""
    return [f"{refusal.settings}: {refusal.reason}" for refusal in REFUSALS if refusal.applies(design)]
