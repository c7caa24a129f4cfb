"""One recipe, a model for each of many symbols: made in parallel, each symbol failing alone, and started again."""
