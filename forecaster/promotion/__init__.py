"""Promotion: choose between versions, and decide which one becomes champion."""
