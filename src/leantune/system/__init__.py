"""The lowest layer, which is independent of classifiers: safe file access, the machine, and messages.

Files: `atomic`, `checksums`, `file_names`, `json_files`, `trusted_files`, `lock`. The machine: `hardware`, `memory`,
`openmp`, `distributed`, `environment`. Messages: `messages`, `console`, `notebook`, `damage`.
"""
