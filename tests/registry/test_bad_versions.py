"""The sync with a damaged registry: a bad version stops no other, and an emptied registry does not empty the cache."""

import json
import shutil
from pathlib import Path

import pytest

from forecaster.domain.errors import BundleError, StoreUnavailable
from forecaster.inference.predictor import load_predictor
from forecaster.registry import sync
from forecaster.registry.bundle import Bundle, read_bundle
from forecaster.registry.cache import (
    CHALLENGER,
    CHAMPION,
    Refusal,
    bundle_folder,
    read_indexes,
    read_refusals,
    write_refusals,
)
from forecaster.registry.sandbox import Limits
from forecaster.registry.store import Store
from forecaster.registry.sync import sync_all
from tests.conftest import TrainedModels, run_module
from tests.registry.bundle_faults import Damage, edit_graph, insert, loop, outer_product, pipe, slow, write
from tests.registry.registry_copy import Registry, copy_registry

LIMITS = Limits(seconds=2, memory_mb=512)
BAD_FILES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda folder: (folder / "golden.json").unlink(), "missing files ['golden.json']"),
    "gone": (shutil.rmtree, "files"),
    "pipe": (pipe("MLmodel"), "not a regular file"),
    "mlmodel": (write("MLmodel", b"- flavors", hashed=True), "MLmodel: is malformed"),
    "digits": (insert("manifest.json", "input_size", "9" * 5000), "manifest.json: cannot be read as JSON"),
    "deep": (write("golden.json", b"[" * 100_000, hashed=True), "golden.json: cannot be read as JSON"),
    "loop": (edit_graph(loop("is_large")), "is not what this program exports"),
    "memory": (edit_graph(outer_product(17_500)), "Failed to allocate memory"),
    "slow": (edit_graph(slow(20_000)), "took more than 2 s"),
}


@pytest.fixture
def registry(models: TrainedModels, tmp_path: Path) -> Registry:
    return copy_registry(models, tmp_path / "registry")


def _sync(registry: Registry, cache: Path, *, allow_empty: bool = False) -> list[str]:
    return sync_all(registry.store, cache, LIMITS, allow_empty=allow_empty)[1]


def test_bad_files_of_a_version_do_not_stop_the_others(
    registry: Registry, models: TrainedModels, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    bad = {}
    for name, (damage, _) in BAD_FILES.items():
        # some versions of the served model, and others of their own models
        model = "sine" if name in ("pipe", "loop", "slow") else name
        bad[name] = model, registry.add(model, registry.bundle(model, damage), alias=f"try-{name}")
    registry.add("other", registry.bundle("other"))
    new = registry.add("sine", registry.bundle("sine"), alias=CHAMPION)
    problems = _sync(registry, cache)
    indexes = read_indexes(cache)
    assert indexes["other"].aliases == {CHAMPION: 1}
    assert indexes["sine"].aliases[CHAMPION] == new
    for name, (_, message) in BAD_FILES.items():
        model, version = bad[name]
        assert version not in indexes[model].runs
        where = f"model '{model}' version {version}: "
        assert any(problem.startswith(where) and message in problem for problem in problems), (where, problems)
    assert not any(str(tmp_path) in problem for problem in problems)
    assert len(problems) == len(BAD_FILES)


def test_bad_entries_of_the_registry_do_not_stop_the_others(
    registry: Registry, models: TrainedModels, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    names = ('it\'s "both"', "../up", "a/b", "ünï\n" + "x" * 150, ".hidden", "%s{}'")
    for name in names:
        registry.execute("INSERT INTO registered_models (name) VALUES (?)", name)
    odd = {"alias-of-text": "x", "alias-of-none": "77", "source-of-nothing": "", "source-of-a-scheme": "gopher://x/y"}
    for name, value in odd.items():
        registry.add(name, registry.bundle(name))
        if name.startswith("alias"):
            registry.execute("UPDATE registered_model_aliases SET version = ? WHERE name = ?", value, name)
        else:
            registry.execute(
                "UPDATE model_versions SET source = ?, storage_location = NULL WHERE name = ?", value, name
            )
    registry.add("a-file", registry.bundle("a-file") / "MLmodel")
    registry.add("another", registry.bundle("other-name"))
    registry.execute("DELETE FROM runs WHERE run_uuid = ?", models.versions[1].run_id)
    registry.add("in-the-way", registry.bundle("in-the-way"))
    (cache / "in-the-way").touch()
    registry.add("other", registry.bundle("other"))
    problems = "\n".join(_sync(registry, cache))
    assert read_indexes(cache)["sine"].runs.keys() >= {1, 2}
    assert read_indexes(cache)["other"].aliases == {CHAMPION: 1}
    assert problems.count("its name cannot be served") == len(names)
    for name in ("alias-of-text", "source-of-nothing", "source-of-a-scheme", "a-file", "another", "in-the-way"):
        assert f"model '{name}'" in problems
    assert problems.isascii()
    assert str(tmp_path) not in problems


def test_refused_champion_keeps_the_old_alias_and_fails_in_python(
    registry: Registry, models: TrainedModels, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    registry.add("sine", registry.bundle("sine", edit_graph(loop("always"))), alias=CHAMPION)
    good = registry.add("sine", registry.bundle("sine"), alias=CHALLENGER)
    assert len(_sync(registry, cache)) == 1
    aliases = read_indexes(cache)["sine"].aliases
    assert (aliases[CHAMPION], aliases[CHALLENGER]) == (1, good)
    # loading the champion does not fall back to the old version
    with pytest.raises(BundleError, match=r"version 3: .*not what this program exports"):
        load_predictor("sine", tracking_uri=registry.uri, cache=cache)


def test_refused_bundle_is_tried_again_later_or_after_a_change(registry: Registry, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = registry.bundle("bad", edit_graph(slow(20_000)))
    registry.add("bad", folder)
    problems = _sync(registry, cache)
    (first,) = read_refusals(cache, "bad").values()
    assert _sync(registry, cache) == problems
    # the refusal of the first sync, so the second did not try the bundle
    assert list(read_refusals(cache, "bad").values()) == [first]
    # after an hour it is tried again
    write_refusals(cache, "bad", {1: Refusal(first.reason, first.trial, first.at - 3601)})
    _sync(registry, cache)
    assert read_refusals(cache, "bad")[1].at > first.at
    shutil.rmtree(folder)
    registry.bundle("bad").rename(folder)
    assert _sync(registry, cache) == []
    assert read_indexes(cache)["bad"].runs.keys() == {1}
    assert read_refusals(cache, "bad") == {}


def test_sync_does_not_parse_a_bundle_that_its_trial_refused(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []

    def read(folder: Path) -> Bundle:
        parsed.append(folder)
        return read_bundle(folder)

    monkeypatch.setattr(sync, "read_bundle", read)
    # each of these nodes has two bytes, and takes more than a hundred in memory
    nodes = b"\x0a\x00" * 1_000_000
    registry.add("bad", registry.bundle("bad", write("model.onnx", b"\x3a\x80\x89\x7a" + nodes, hashed=True)))
    (problem,) = _sync(registry, tmp_path / "cache")
    assert problem.startswith("model 'bad' version 1: ")
    assert not [folder for folder in parsed if "bad" in folder.parts]


def test_repaired_bundle_is_tried_again_at_once(registry: Registry, tmp_path: Path) -> None:
    folder = registry.bundle("cut")
    registry.add("cut", folder)
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[:-100])
    assert len(_sync(registry, tmp_path / "cache")) == 1
    # the manifest does not change
    (folder / "model.onnx").write_bytes(whole)
    assert _sync(registry, tmp_path / "cache") == []


def test_sync_does_not_write_to_a_cache_that_is_up_to_date(
    registry: Registry, models: TrainedModels, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    before = cache.joinpath("sine").stat().st_mtime_ns
    unlinked: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        # in a read-only folder, removing even a missing file fails
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: unlinked.append(path))
        assert _sync(registry, cache) == []
    assert unlinked == []
    assert cache.joinpath("sine").stat().st_mtime_ns == before


def test_version_that_timed_out_is_synced_last(registry: Registry, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in ("aaa", "zzz"):
        registry.add(name, registry.bundle(name))
    # as left by a sync that was killed while it tried aaa
    write_refusals(cache, "aaa", {1: Refusal("it could not be downloaded and tried in time")})
    assert _sync(registry, cache) == []
    first, last = (bundle_folder(cache, name, 1).with_name("index.json").stat().st_mtime_ns for name in ("zzz", "aaa"))
    assert first < last


@pytest.mark.parametrize("how", ["only tables", "no versions", "no aliases", "other models"])
def test_emptied_registry_empties_the_cache_only_with_allow_empty(
    registry: Registry, models: TrainedModels, tmp_path: Path, how: str
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    if how == "only tables":
        registry.file.unlink()
        Store(registry.uri, create=True)
    if how == "no versions":
        registry.execute("DELETE FROM model_versions")
    if how == "no aliases":
        registry.execute("DELETE FROM registered_model_aliases")
    if how == "other models":
        registry.execute("DELETE FROM model_versions")
        registry.execute("DELETE FROM registered_models")
        registry.add("other", registry.bundle("other"))
    (problem,) = _sync(registry, cache)
    assert "--allow-empty" in problem
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # new models are synced nevertheless
    assert ("other" in read_indexes(cache)) == (how == "other models")
    assert _sync(registry, cache, allow_empty=True) == []
    left = read_indexes(cache).get("sine")
    assert left is None or (not left.aliases and bool(left.runs) == (how == "no aliases"))


@pytest.mark.parametrize("size", [None, 0])
def test_missing_or_empty_database_is_refused_and_not_created(registry: Registry, size: int | None) -> None:
    registry.file.unlink()
    if size is not None:
        registry.file.touch()
    with pytest.raises(StoreUnavailable, match="there is no such store"):
        _ = registry.store
    assert (registry.file.stat().st_size if registry.file.exists() else None) == size


def test_sync_command_needs_allow_empty_to_empty_the_cache(
    registry: Registry, models: TrainedModels, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    registry.execute("DELETE FROM model_versions")
    arguments = ("forecaster.registry.sync", "--cache", cache)
    refused = run_module(*arguments, cwd=tmp_path, FORECASTER_TRACKING_URI=registry.uri)
    assert refused.returncode == 3, refused.stderr
    assert "--allow-empty" in json.loads(refused.stdout)["problems"][0]
    assert read_indexes(cache)["sine"].runs
    confirmed = run_module(*arguments, "--allow-empty", cwd=tmp_path, FORECASTER_TRACKING_URI=registry.uri)
    assert confirmed.returncode == 0, confirmed.stderr
    assert not read_indexes(cache)["sine"].runs


def test_model_missing_from_a_list_is_queried_before_it_is_removed(
    registry: Registry, models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(shutil.copytree(models.cache, tmp_path / "cache"))
    registry.add("other", registry.bundle("other"))
    assert _sync(registry, cache) == []
    with monkeypatch.context() as patch:
        # a lost page of the list
        patch.setattr(Store, "names", lambda _: ["other"])
        assert _sync(registry, cache) == []
    assert set(read_indexes(cache)) == {"other", "sine"}
    # a deleted model is removed
    registry.client.delete_registered_model("other")
    assert _sync(registry, cache) == []
    assert set(read_indexes(cache)) == {"sine"}
