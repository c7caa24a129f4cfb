"""The sync: it brings the registry's served versions into the cache, verified and atomically."""

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


def test_sync_fills_an_empty_cache_and_changes_nothing_the_second_time(models: TrainedModels, tmp_path: Path) -> None:
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


def test_sync_reports_why_it_failed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/no.db"
    done = run_module("forecaster.registry.sync", "--cache", tmp_path, cwd=tmp_path, FORECASTER_TRACKING_URI=uri)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{uri}: there is no such store")
    done = run_module("forecaster.registry.sync", "--cache", tmp_path, cwd=tmp_path, FORECASTER_TRACKING_URI="")
    assert done.returncode == 2
    assert "set FORECASTER_TRACKING_URI" in done.stderr


@pytest.mark.parametrize("version", [1, 2])
def test_damaged_version_keeps_its_alias_and_stops_no_other(
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
    # a serving process may have loaded the champion
    assert index.aliases["champion"] == 1
    assert set(index.runs) == ({1, 2} if version == 1 else {1})
    assert not bundle_folder(cache, "sine", version).exists()
    assert not list(cache.glob("*/.fetch-*"))


def test_sync_removes_versions_that_are_no_longer_served(models: TrainedModels, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(models.cache, cache)
    shutil.copytree(bundle_folder(cache, "sine", 1), bundle_folder(cache, "sine", 77))
    sync(models.store, cache)
    assert not bundle_folder(cache, "sine", 77).exists()
    assert bundle_folder(cache, "sine", 1).exists()


def test_sync_replaces_a_damaged_bundle_in_the_cache(models: TrainedModels, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(models.cache, cache)
    damaged = bundle_folder(cache, "sine", 1) / "model.onnx"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:100])
    before = fingerprint(cache)
    sync(models.store, cache)
    assert damaged.read_bytes() == good
    # a process that watches the cache notices the change
    assert fingerprint(cache) != before
    assert sorted(path.name for path in (cache / "sine").glob("[!.]*")) == ["1", "2", "index.json"]


def test_sync_removes_deleted_models_and_abandoned_downloads(models: TrainedModels, tmp_path: Path) -> None:
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
