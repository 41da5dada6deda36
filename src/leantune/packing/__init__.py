"""Texts without padding: `batch` lays them end to end, `layout` says where each is, `dropout` draws masks for them."""
