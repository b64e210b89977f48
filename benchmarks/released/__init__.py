"""Baselines beside their authors' released code."""
