"""The Open Inference Protocol's messages, as OpenAPI shows them.

Source: Open Inference Protocol 2 (KServe), with its binary tensor data extension.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, Strict, field_validator
from pydantic_core import PydanticCustomError, core_schema, from_json

from service.schemas import Name, Time, Whole

Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]


class _AsArray:
    """Makes an array of a flat list of numbers while it is parsed; any other list is checked later, by its shape.

    As Python objects the numbers would take four times the memory.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        number = core_schema.float_schema(strict=True, allow_inf_nan=False)
        flat = core_schema.no_info_after_validator_function(np.array, core_schema.list_schema(number, fail_fast=True))
        # named once where it is no list at all, and not once for each of the two
        return core_schema.union_schema(
            [flat, core_schema.list_schema(core_schema.any_schema())],
            mode="left_to_right",
            custom_error_type="list_type",
        )


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


Datatype = Literal["FP64", "FP32", "FP16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


def _is_numeric(datatype: Any) -> Any:
    """Refuse the protocol's other datatypes."""
    if datatype in ("BOOL", "BYTES"):
        raise PydanticCustomError(
            "datatype", "{datatype} holds no numbers, which are all that models take; send FP64", {"datatype": datatype}
        )
    return datatype


class InputParameters(_Part):
    """Of an input: how many of the bytes behind the JSON are its own."""

    binary_data_size: Count | None = None


class InputTensor(_Part):
    """An input: its numbers are in `data`, row by row or nested as `shape` says, or among the bytes behind the JSON."""

    name: str = Field(max_length=200)
    shape: list[Count] = Field(max_length=8)
    datatype: Annotated[Datatype, BeforeValidator(_is_numeric)]
    parameters: InputParameters = InputParameters()
    data: Annotated[Any, _AsArray()] | None = None


class OutputParameters(_Part):
    """Of an output that is asked for: whether it is to come as bytes."""

    binary_data: Flag | None = None


class RequestedOutput(_Part):
    """An output that is asked for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferenceParameters(_Part):
    """Of a request: how far to forecast, whether outputs come as bytes, and of which series and times its windows are.

    With `cutoffs` the forecasts enter the ledger.
    """

    horizon: Whole | None = Field(None, description="steps; the trained horizon when left out")
    binary_data_output: Flag = False
    cutoffs: list[Time] | None = Field(
        None,
        fail_fast=True,
        description="the time of each window's last row, ISO 8601; a list, or a string that holds it as JSON",
    )
    unique_ids: list[Name] | None = Field(
        None,
        fail_fast=True,
        description="the series of each window, likewise; names are made where there are only cutoffs",
    )

    @field_validator("cutoffs", "unique_ids", mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        """Return what a string holds: by the protocol, parameters are strings, numbers and booleans."""
        if not isinstance(value, str):
            return value
        try:
            return from_json(value)
        except ValueError:
            raise PydanticCustomError("list", "Input should be a list, or a string that holds a list as JSON") from None


class InferenceRequest(_Part):
    """The inputs of a model, and which outputs are wanted; all when left out."""

    id: str | None = Field(None, max_length=200, description="repeated in the answer")
    parameters: InferenceParameters = InferenceParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=2)
    outputs: list[RequestedOutput] | None = Field(None, max_length=1)


class TensorMetadata(BaseModel):
    """A tensor's name, datatype and shape, -1 where it varies."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's versions and tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """What answers, and what it understands beside the protocol."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """That the server answers."""

    live: bool


class ServerReady(BaseModel):
    """Whether a model can be asked."""

    ready: bool


class ModelReady(BaseModel):
    """Whether this model can be asked."""

    name: str
    ready: bool


class OutputTensor(BaseModel):
    """An output; its numbers row by row in `data`, or behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[float] = []


class InferenceResponse(BaseModel):
    """Outputs, and which version made them."""

    model_name: str
    model_version: str
    id: str = ""
    parameters: dict[str, str] = Field(
        description="`forecast_by`: `model`, or the baseline that is served in its place; `request_id`, where the "
        "ledger has the forecasts: of window n, counted from 0, under `REQUEST_ID-n`"
    )
    outputs: list[OutputTensor]


class InferenceProblem(BaseModel):
    """An error, as the protocol spells it."""

    error: str
