"""From windows of input to forecasts with intervals: the same over HTTP and in batches."""
