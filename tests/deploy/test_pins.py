"""Every image that is pulled is pinned by a digest, beside the tag that names its version."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.image import stages

# The only images without a digest: they are built from this checkout, and get one when they are pushed.
BUILT_HERE = {"forecaster-serve", "forecaster-train", "forecaster-train-gpu"}
PINNED = re.compile(r"(?P<tag>[\w./-]+:v?\d+\.[\w.-]+)@(?P<digest>sha256:[0-9a-f]{64})")


def _bases() -> Iterator[str]:
    """Yield the images that the Dockerfile's stages start from, stages of its own left out."""
    text = (ROOT / "Dockerfile").read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    found = stages()
    for [(_, origin), *_] in found.values():
        if origin not in found:
            yield re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], origin)


def _images() -> Iterator[str]:
    yield from _bases()
    for file in (ROOT / "docker-compose.yml", ROOT / "deploy/gpu.yaml"):
        for service in yaml.safe_load(file.read_text())["services"].values():
            yield service["image"]


def _name(image: str) -> str:
    return image.partition(":")[0]


@pytest.mark.parametrize("image", sorted({image for image in _images() if _name(image) not in BUILT_HERE}))
def test_an_image_that_is_pulled_is_pinned(image: str) -> None:
    assert PINNED.fullmatch(image)


def test_a_tag_has_one_digest_and_a_digest_one_tag() -> None:
    pins = {(match["tag"], match["digest"]) for image in _images() if (match := PINNED.fullmatch(image))}
    assert {_name(tag) for tag, _ in pins} == {"python", "postgres", "prom/prometheus", "grafana/grafana"}
    assert len({tag for tag, _ in pins}) == len({digest for _, digest in pins}) == len(pins)


def test_only_images_built_from_this_checkout_have_no_digest() -> None:
    assert {_name(image) for image in _images() if "@" not in image} == BUILT_HERE
    assert {f"forecaster-{target}" for target in ("serve", "train", "train-gpu")} == BUILT_HERE
    assert {name.removeprefix("forecaster-") for name in BUILT_HERE} <= stages().keys()
