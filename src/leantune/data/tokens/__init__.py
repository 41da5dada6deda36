"""Turns texts into token ids, kept on disk and mapped into memory."""
