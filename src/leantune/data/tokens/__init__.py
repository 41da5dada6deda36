"""Turns texts into token ids, which are cached on disk and mapped into memory."""
