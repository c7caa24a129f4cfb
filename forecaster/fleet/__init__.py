"""Train or backtest one recipe for many symbols in parallel; a failing symbol does not affect the others."""
