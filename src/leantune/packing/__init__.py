"""Batches without padding: `batch` concatenates texts, `layout` locates each, `dropout` draws masks."""
