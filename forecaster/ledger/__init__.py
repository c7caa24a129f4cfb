"""The ledger: every forecast that was served, what came in its stead, and how good it was."""
