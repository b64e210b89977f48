"""Preconditioning, loss, guidance and samplers; nothing here knows the trainer."""
