"""Before the first step: the folder, rows, plan, defaults, and initial values of head and adapters."""
