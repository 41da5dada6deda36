"""Which labels are probably wrong? Judged by classifiers that have not seen them."""
