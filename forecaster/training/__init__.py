"""From windows to a registered version: devices, fit, export, tracking, and the recipe that strings them together."""
