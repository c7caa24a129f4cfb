"""The ledger: every served forecast, its actuals and its scores."""
