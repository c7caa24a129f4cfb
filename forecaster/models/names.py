"""Names that the network, the manifest and the served graph share."""

# the graph's output with the attention weights
ATTENTION = "attention"
# the layer whose numbers the head reads
HEAD = "head"
# the layer that holds the closed-form ridge regression
SKIP = "skip"
