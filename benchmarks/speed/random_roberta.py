"""Make a random-weight RoBERTa-base: the exact shape, with the real tokenizer, where no hub is at hand.

python benchmarks/speed/random_roberta.py FOLDER_OF_THE_TOKENIZER OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaModel

if __name__ == "__main__":
    tokenizer, output = sys.argv[1:]
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    )
    temporary = Path(f"{output}.part")
    RobertaModel(config).save_pretrained(temporary)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(temporary)
    temporary.rename(output)
