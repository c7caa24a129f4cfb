"""A network that is yet to be chosen: `model: auto`."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, SerializerFunctionWrapHandler, Tag, model_serializer

from forecaster.domain.config import short_for
from forecaster.models.network import ModelConfig


class AutoModel(ModelConfig):
    """A network whose parts a training chooses by validation, apart from those that are set."""

    kind: Literal["auto"] = "auto"

    @model_serializer(mode="wrap")
    def _leave_open(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the parts that are not set, so that they are still open when the configuration is read again."""
        return {name: value for name, value in dump(self).items() if name in {"kind", *self.model_fields_set}}


def _tag(raw: Any) -> str | None:
    if isinstance(raw, dict):
        return {None: "network", "auto": "auto"}.get(raw.get("kind"))
    if isinstance(raw, ModelConfig):
        return "auto" if isinstance(raw, AutoModel) else "network"
    return None


# `auto` is short for `{kind: auto}`
AnyModel = Annotated[
    Annotated[ModelConfig, Tag("network")] | Annotated[AutoModel, Tag("auto")],
    Discriminator(
        _tag,
        custom_error_type="model_kind",
        custom_error_message="must be auto, or a mapping with the parts of a network",
    ),
    short_for("kind"),
]
