"""Recurrent networks: cells, topologies and heads, and how a network is built, traced and used to forecast."""
