"""What needs models, evaluation and registry together: backtests, the gate, answers, batches and backups."""
