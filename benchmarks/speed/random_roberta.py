"""Make a random-weight RoBERTa-base: the exact shape, with the real tokenizer, where no hub is at hand."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", help="folder of RoBERTa's tokenizer")
    parser.add_argument("output", help="folder to write")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    )
    temporary = Path(f"{options.output}.part")
    RobertaModel(config).save_pretrained(temporary)
    AutoTokenizer.from_pretrained(options.tokenizer).save_pretrained(temporary)
    temporary.rename(options.output)


if __name__ == "__main__":
    main()
