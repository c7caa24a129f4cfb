"""Exit statuses of the pipelines, which a schedule reads too."""

SUCCESS = 0
FAILED = 1
# argparse exits with 2 as well
BAD_CONFIG = 2
# fetch, fleet, forecast and score: some items failed
PARTLY_FAILED = 3
# retrain: the data is invalid
INVALID_DATA = 3
# retrain: a retry with the same data and seed fails too
TRAINING_FAILED = 4
INTERRUPTED = 130
