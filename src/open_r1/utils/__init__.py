"""Numerics, correlation measures, run provenance and version workarounds."""
