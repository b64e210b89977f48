"""Augmentation methods: from source windows to generated windows."""
