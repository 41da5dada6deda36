"""The ground floor, which knows nothing of classifiers: files that are whole or not there, messages, the machine.

Files: `atomic`, `checksums`, `file_names`, `json_files`, `trusted_files`, `lock`. The machine: `hardware`, `memory`,
`openmp`, `distributed`, `environment`. What is said: `messages`, `console`, `damage`.
"""
