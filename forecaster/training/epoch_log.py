"""Log the losses of each epoch to MLflow; while MLflow does not answer, keep them in a file with the checkpoints."""

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forecaster.database.uris import mask_password
from forecaster.domain.errors import StoreUnavailable
from forecaster.domain.interrupts import uninterrupted

# between attempts after a failure: an attempt may take longer than an epoch
_PAUSE_SECONDS = 15
_log = logging.getLogger("forecaster.training")


@dataclass
class EpochLog:
    """Logs epochs to the active run.

    Args:
        file: keeps the epochs that MLflow does not have yet, one per line.
        patience_seconds: how long `deliver` waits for MLflow.
    """

    file: Path
    patience_seconds: float
    _failed_at: float = field(default=-_PAUSE_SECONDS, init=False)

    def __call__(self, phase: str, epoch: int, loss: float, validation_loss: float | None) -> None:
        """Log the losses of an epoch under `recipe/` or `served/`, now or later."""
        losses = {"loss": loss} if validation_loss is None else {"loss": loss, "validation_loss": validation_loss}
        metrics = {f"{phase}/{name}": value for name, value in losses.items()}
        with self.file.open("a", encoding="utf-8") as kept:
            # on a new line: a kill may have cut off the last one
            kept.write(f"\n{json.dumps({'step': epoch, 'metrics': metrics})}\n")
        if time.monotonic() - self._failed_at >= _PAUSE_SECONDS:
            self._try_to_send()

    def deliver(self) -> None:
        """Send the kept epochs, retrying for `patience_seconds`.

        Raises:
            StoreUnavailable: MLflow did not answer in that time; the file stays, and the next attempt sends it.
        """
        until = time.monotonic() + self.patience_seconds
        while not self._try_to_send():
            if time.monotonic() > until:
                raise StoreUnavailable(
                    f"MLflow has not answered for {self.patience_seconds:g} s; the fit is kept in {self.file.parent}: "
                    "start the same training again when MLflow is up"
                )
            time.sleep(1)

    @uninterrupted()
    def _try_to_send(self) -> bool:
        """Send the kept epochs, and return whether MLflow accepted them."""
        import mlflow
        from mlflow.exceptions import MlflowException

        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        try:
            for epoch in map(_read, lines):
                if epoch is not None:
                    mlflow.log_metrics(epoch["metrics"], step=epoch["step"])
        except (MlflowException, OSError) as error:
            self._failed_at = time.monotonic()
            reason = mask_password(str(error), mlflow.get_tracking_uri()).partition("\n")[0][:200]
            _log.warning("MLflow does not answer (%s); keeping the epochs until it does", reason)
            return False
        self.file.unlink(missing_ok=True)
        return True


def _read(line: str) -> dict[str, Any] | None:
    """Return the epoch on a line; None if the line is empty or was cut off by a kill, which repeats the epoch."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return None
