"""The Open Inference Protocol's messages, as OpenAPI shows them.

Source: Open Inference Protocol 2 (KServe), with its binary tensor data extension.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, Strict
from pydantic_core import core_schema

from service.schemas import Whole

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


class InputParameters(_Part):
    """Of an input: how many of the bytes behind the JSON are its own."""

    binary_data_size: Count | None = None


class InputTensor(_Part):
    """An input: its numbers are in `data`, row by row or nested as `shape` says, or among the bytes behind the JSON."""

    name: str = Field(max_length=200)
    shape: list[Count] = Field(max_length=8)
    datatype: Literal["FP64", "FP32"]
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
    """Of a request: how far to forecast, and whether outputs are to come as bytes where they do not say themselves."""

    horizon: Whole | None = Field(None, description="steps; the trained horizon when left out")
    binary_data_output: Flag = False


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
        description="`forecast_by`: `model`, or the baseline that is served in its place"
    )
    outputs: list[OutputTensor]


class InferenceProblem(BaseModel):
    """An error, as the protocol spells it."""

    error: str
