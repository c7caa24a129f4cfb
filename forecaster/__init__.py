"""Recurrent time-series forecasting, from a series to a served, scored forecast."""
