"""The composed stack: what its containers are given, and a way to run it without them."""
