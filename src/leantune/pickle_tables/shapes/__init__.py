"""The tables that a pickle may hold, matched node by node; whatever does not match is refused."""
