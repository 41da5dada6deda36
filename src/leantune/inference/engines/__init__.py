"""Libraries that compute logits: `choose` opens a classifier in one of them, `exported` reads exports."""
