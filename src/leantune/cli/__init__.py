"""The command line: what can be typed (`parser`, `help`), what each command does (`main`), what it prints (`output`),
how it starts and ends (`process`).
"""
