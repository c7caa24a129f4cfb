"""Recurrent networks: cells, encoders, decoders and heads, and how a network is built, traced and used to forecast."""
