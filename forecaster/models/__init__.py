"""Recurrent networks: cells, topologies, heads, and the one function that builds them and the one that traces them."""
