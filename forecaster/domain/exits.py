"""Exit statuses of the pipelines: what their command lines end with, and what a schedule reads from it."""

SUCCESS = 0
FAILED = 1
# also what the parser of a command line ends with
BAD_CONFIG = 2
# of fetch, fleet, forecast and score: some of many failed
PARTLY_FAILED = 3
# of retrain
DATA_NOT_FIT = 3
# of retrain: the same data and the same seed fail in the same way
TRAINING_FAILED = 4
INTERRUPTED = 130
