"""What needs models, evaluation and registry together: backtests."""
