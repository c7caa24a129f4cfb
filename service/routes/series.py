"""The series of the bar store, which `unique_ids` in a forecast request name."""

import numpy as np
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from forecaster.data.tails import read_tail, stored_symbols
from service.dependencies import ModelStoreDep
from service.problems import responses
from service.requests import Name
from service.responses import StoredBars, StoredSeries

router = APIRouter(prefix="/v1/series", tags=["series"])


@router.get("", responses=responses())
async def list_series(model_store: ModelStoreDep) -> StoredSeries:
    """List the names of the stored series, sorted."""
    return StoredSeries(series=await run_in_threadpool(stored_symbols, model_store.settings.bars_dir))


# symbols may contain a slash
@router.get("/{unique_id:path}", responses=responses(404, 422))
async def read_series(unique_id: Name, model_store: ModelStoreDep) -> StoredBars:
    """Return the last bars of a stored series, oldest first, adjusted for splits and dividends."""
    tail = await run_in_threadpool(read_tail, model_store.settings.bars_dir, unique_id)
    bars = {name: column.tolist() for name, column in tail.bars.items()}
    return StoredBars(unique_id=tail.symbol, ds=np.datetime_as_string(tail.days).tolist(), **bars)
