"""Before the first step: the folder, rows, plan, defaults, and the start of head and adapters."""
