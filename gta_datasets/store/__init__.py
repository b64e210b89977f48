"""Checked, shared, crash-safe storage of arrays under a content key. Knows bytes, not diffusion."""

from __future__ import annotations

from gta_datasets.store.files import FORMAT_VERSION, Arrays
from gta_datasets.store.key import KeyPart, content_key
from gta_datasets.store.shards import MANIFEST_FILE, ShardStore, list_stores

__all__ = ["FORMAT_VERSION", "MANIFEST_FILE", "Arrays", "KeyPart", "ShardStore", "content_key", "list_stores"]
