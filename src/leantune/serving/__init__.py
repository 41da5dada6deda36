"""The HTTP server of classifiers: `leantune serve`."""
