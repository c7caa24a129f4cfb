"""The sync child: what counts in the registry is verified and brought into the cache, whole or not at all."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from forecaster.domain.errors import BundleError
from forecaster.registry.bundle import read_bundle
from forecaster.registry.cache import bundle_folder, fingerprint, read_indexes
from forecaster.registry.sync import sync
from tests.conftest import TrainedModels, run_module


def test_the_child_fills_an_empty_cache_and_then_has_nothing_to_do(models: TrainedModels, tmp_path: Path) -> None:
    uri, cache = models.config.tracking.uri, tmp_path / "cache"
    first = run_module("forecaster.registry.sync", "--cache", cache, cwd=tmp_path, FORECASTER_TRACKING_URI=uri)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["sine"]["champion"] == 1
    before = fingerprint(tmp_path / "cache")
    run_module("forecaster.registry.sync", "--cache", cache, cwd=tmp_path, FORECASTER_TRACKING_URI=uri)
    assert fingerprint(tmp_path / "cache") == before
    index = read_indexes(tmp_path / "cache")["sine"]
    assert index.runs == {version.version: version.run_id for version in models.versions}
    for version in index.runs:
        assert read_bundle(bundle_folder(tmp_path / "cache", "sine", version)).manifest.name == "sine"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_child_says_why_it_failed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/no.db"
    done = run_module("forecaster.registry.sync", "--cache", tmp_path, cwd=tmp_path, FORECASTER_TRACKING_URI=uri)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{uri}: there is no such store")
    done = run_module("forecaster.registry.sync", "--cache", tmp_path, cwd=tmp_path, FORECASTER_TRACKING_URI="")
    assert done.returncode == 2
    assert "set FORECASTER_TRACKING_URI" in done.stderr


@pytest.mark.parametrize("version", [1, 2])
def test_a_spoilt_version_leaves_its_alias_where_it_was_and_holds_no_other_back(
    models: TrainedModels, tmp_path: Path, version: int
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(models.cache, cache)
    shutil.rmtree(bundle_folder(cache, "sine", version))
    run = models.versions[version - 1].run_id
    source = models.folder / "artifacts" / run / "artifacts" / "model" / "calibration.json"
    good = source.read_bytes()
    source.write_bytes(good + b" ")
    try:
        with pytest.raises(BundleError, match=r"\['calibration.json'\] changed"):
            sync(models.store, cache)
    finally:
        source.write_bytes(good)
    index = read_indexes(cache)["sine"]
    # a process that serves may have the champion loaded
    assert index.aliases["champion"] == 1
    assert set(index.runs) == ({1, 2} if version == 1 else {1})
    assert not bundle_folder(cache, "sine", version).exists()
    assert not list(cache.glob("*/.fetch-*"))


def test_versions_that_no_longer_count_are_removed(models: TrainedModels, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(models.cache, cache)
    shutil.copytree(bundle_folder(cache, "sine", 1), bundle_folder(cache, "sine", 77))
    sync(models.store, cache)
    assert not bundle_folder(cache, "sine", 77).exists()
    assert bundle_folder(cache, "sine", 1).exists()


def test_a_bundle_damaged_in_the_cache_is_brought_again(models: TrainedModels, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(models.cache, cache)
    damaged = bundle_folder(cache, "sine", 1) / "model.onnx"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:100])
    before = fingerprint(cache)
    sync(models.store, cache)
    assert damaged.read_bytes() == good
    # and whoever watches the cache sees that there is something new
    assert fingerprint(cache) != before
    assert sorted(path.name for path in (cache / "sine").glob("[!.]*")) == ["1", "2", "index.json"]


def test_what_is_deleted_in_the_registry_or_was_abandoned_leaves_the_cache(
    models: TrainedModels, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(models.cache, cache)
    shutil.copytree(models.cache / "sine", cache / "deleted")
    for age, name in ((7200, ".fetch-old"), (60, ".fetch-now")):
        draft = cache / "sine" / name
        draft.mkdir()
        os.utime(draft, (time.time() - age,) * 2)
    sync(models.store, cache)
    assert [path.name for path in cache.iterdir()] == ["sine"]
    found = sorted(path.name for path in (cache / "sine").iterdir())
    assert found == [".fetch-now", ".tried-1", ".tried-2", "1", "2", "index.json"]
