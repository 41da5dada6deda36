"""Matches the known kinds of tables in a pickle node by node; anything else is refused."""
