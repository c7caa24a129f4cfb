"""The Open Inference Protocol's messages, as OpenAPI shows them.

Source: Open Inference Protocol 2 (KServe), with its binary tensor data extension.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, Strict, field_validator
from pydantic_core import PydanticCustomError, core_schema, from_json

from service.requests import Name, Time, Whole

Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]


class _AsArray:
    """Parses a flat list of numbers as an array, and leaves any other list as it is; `read_tensors` checks its shape.

    Python objects would take four times the memory of the array.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        number = core_schema.float_schema(strict=True, allow_inf_nan=False)
        flat = core_schema.no_info_after_validator_function(np.array, core_schema.list_schema(number, fail_fast=True))
        # one error instead of one for each choice of the union
        return core_schema.union_schema(
            [flat, core_schema.list_schema(core_schema.any_schema())],
            mode="left_to_right",
            custom_error_type="list_type",
        )


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


Datatype = Literal["FP64", "FP32", "FP16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


def _is_numeric(datatype: Any) -> Any:
    """Refuse the protocol's datatypes that are not numbers."""
    if datatype in ("BOOL", "BYTES"):
        raise PydanticCustomError(
            "datatype", "{datatype} is not numeric; send the values as FP64", {"datatype": datatype}
        )
    return datatype


class InputParameters(_Part):
    """The parameters of an input: how many of the bytes after the JSON belong to it."""

    binary_data_size: Count | None = None


class InputTensor(_Part):
    """An input. Its values are in `data`, as a flat or a nested list, or in the bytes after the JSON."""

    name: str = Field(max_length=200)
    shape: list[Count] = Field(max_length=8)
    datatype: Annotated[Datatype, BeforeValidator(_is_numeric)]
    parameters: InputParameters = InputParameters()
    data: Annotated[Any, _AsArray()] | None = None


class OutputParameters(_Part):
    """The parameters of a requested output: whether to return it as bytes after the JSON."""

    binary_data: Flag | None = None


class RequestedOutput(_Part):
    """A requested output."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferenceParameters(_Part):
    """The parameters of a request: the horizon, the format of the outputs, and the series and cutoffs of the windows.

    Forecasts with `cutoffs` enter the ledger.
    """

    horizon: Whole | None = Field(None, description="number of steps; default: the trained horizon")
    binary_data_output: Flag = False
    cutoffs: list[Time] | None = Field(
        None,
        fail_fast=True,
        description="the time of each window's last row, ISO 8601; a list, or a string that holds a list as JSON",
    )
    unique_ids: list[Name] | None = Field(
        None,
        fail_fast=True,
        description="the series of each window, in the same form; default: generated names",
    )

    @field_validator("cutoffs", "unique_ids", mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        """Parse a string as JSON, because the protocol allows only strings, numbers and booleans as parameters."""
        if not isinstance(value, str):
            return value
        try:
            return from_json(value)
        except ValueError:
            raise PydanticCustomError("list", "Input should be a list, or a string that holds a list as JSON") from None


class InferenceRequest(_Part):
    """The inputs of a model, and the requested outputs (default: all)."""

    id: str | None = Field(None, max_length=200, description="repeated in the answer")
    parameters: InferenceParameters = InferenceParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=3)
    outputs: list[RequestedOutput] | None = Field(None, max_length=1)


class TensorMetadata(BaseModel):
    """A tensor's name, datatype and shape, with -1 for the batch."""

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
    """The server's name and version, and the extensions of the protocol that it supports."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the server is alive."""

    live: bool


class ServerReady(BaseModel):
    """Whether any model can forecast."""

    ready: bool


class ModelReady(BaseModel):
    """Whether this model can forecast."""

    name: str
    ready: bool


class OutputTensor(BaseModel):
    """An output. Its values are in `data`, row by row, or in the bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[float] = []


class InferenceResponse(BaseModel):
    """The outputs, and the version that computed them."""

    model_name: str
    model_version: str
    id: str = ""
    parameters: dict[str, str] = Field(
        description="`forecast_by`: `model`, or the name of the baseline served instead; `request_id`, if the "
        "forecasts are in the ledger: the forecast of window n, counted from 0, has the id `REQUEST_ID-n`; "
        "`warnings`, if there are any: a list in JSON"
    )
    outputs: list[OutputTensor]


class InferenceProblem(BaseModel):
    """An error in the protocol's format."""

    error: str
