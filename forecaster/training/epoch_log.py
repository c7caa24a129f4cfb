"""Epochs' losses on their way to MLflow: while it does not answer they are kept beside the checkpoints."""

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forecaster.domain.errors import StoreUnavailable

# how long MLflow is left alone after it did not answer: asking takes as long as many an epoch
_PAUSE_SECONDS = 15
_log = logging.getLogger("forecaster.training")


@dataclass
class EpochLog:
    """Records epochs in the active run.

    Args:
        file: where they are kept until MLflow has them, a line each.
        patience_seconds: how long `deliver` waits for MLflow.
    """

    file: Path
    patience_seconds: float
    _refused_at: float = field(default=-_PAUSE_SECONDS, init=False)

    def __call__(self, phase: str, epoch: int, loss: float, validation_loss: float | None) -> None:
        """Record an epoch's losses under `recipe/` or `served/`, now or later."""
        losses = {"loss": loss} if validation_loss is None else {"loss": loss, "validation_loss": validation_loss}
        metrics = {f"{phase}/{name}": value for name, value in losses.items()}
        with self.file.open("a", encoding="utf-8") as kept:
            # behind what a kill may have cut off
            kept.write(f"\n{json.dumps({'step': epoch, 'metrics': metrics})}\n")
        if time.monotonic() - self._refused_at >= _PAUSE_SECONDS:
            self._try_to_send()

    def deliver(self) -> None:
        """Send what is kept, waiting for MLflow as long as patience lasts.

        Raises:
            StoreUnavailable: it does not come back; what is kept stays, and the same training sends it.
        """
        until = time.monotonic() + self.patience_seconds
        while not self._try_to_send():
            if time.monotonic() > until:
                raise StoreUnavailable(
                    f"MLflow has not answered for {self.patience_seconds:g} s; the fit is kept in {self.file.parent}: "
                    "start the same training again when it is up"
                )
            time.sleep(1)

    def _try_to_send(self) -> bool:
        """Send what is kept, and say whether MLflow has it."""
        import mlflow
        from mlflow.exceptions import MlflowException

        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        try:
            for one in map(_read, lines):
                if one is not None:
                    mlflow.log_metrics(one["metrics"], step=one["step"])
        except (MlflowException, OSError) as error:
            self._refused_at = time.monotonic()
            reason = str(error).partition("\n")[0][:200]
            _log.warning("MLflow does not answer (%s); epochs are kept until it does", reason)
            return False
        self.file.unlink(missing_ok=True)
        return True


def _read(line: str) -> dict[str, Any] | None:
    """Return a line's epoch; None where it is empty, or cut off by a kill, for that epoch is told again."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return None
