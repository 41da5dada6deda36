"""What ``--help`` says: the commands, their examples, and the recipe keys that a user sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COMMANDS: Mapping[str, str] = {
    "train": "train a classifier",
    "train-many": "train the classifiers of a table, many at once",
    "search": "find the best recipe inside the limit",
    "plan": "the ledger of parameters and the schedule, without loading weights",
    "evaluate": "measure a classifier on labelled rows",
    "predict": "classify rows of a file, or one text",
    "serve": "answer over HTTP with one or many classifiers",
    "export": "write another standard form of a run",
    "frontier": "find how small a classifier can be",
    "audit": "find labels that are probably wrong",
    "learning-curve": "forecast what more labelled rows would give",
    "abstain": "choose from which probability on a classifier answers",
    "passport": "compare every form in which a run is deployed with what was measured",
    "explain": "show which training texts and which words speak for a prediction",
    "report": "write report.html of a run again",
    "push": "publish a run on the Hugging Face hub",
    "assets": "fetch a real model and real data to try",
}
EXAMPLES: Mapping[str, str] = {
    "": """
  leantune assets
  leantune train quickstart
  leantune predict runs/quickstart "Oil prices rose again on Monday."
  leantune COMMAND --help
""",
    "train": """
  leantune train quickstart
  leantune train --data train.csv --model asset:minilm --max-trainable-params 100k
  leantune train --data reviews.csv --text-column review --label-column stars --model ./minilm
  leantune train agnews-roberta data=train.csv model=./roberta-base learning_rate=5e-4
  leantune train --resume runs/mine
  leantune train --data train.csv --model ./minilm --cluster auto --num-workers 4
""",
    "train-many": """
  leantune train-many jobs.csv --output runs/customers
  leantune train-many jobs.csv --output runs/customers model=asset:minilm max_trainable_params=100k
  leantune train-many jobs.csv --output runs/customers --resume
  leantune train-many jobs.csv --output /shared/customers --cluster 10.0.0.1:6379 --cores-per-job 2
""",
    "search": """
  leantune search --data train.csv --model asset:minilm --max-trainable-params 100k --output runs/search --trials 20
  leantune search --data train.csv --model asset:minilm --output runs/search --trials 40 --minutes 60 --space space.yaml
  leantune search --data train.csv --model asset:minilm --output runs/search --trials 40 --resume
  leantune train runs/search/best.yaml output=runs/best
""",
    "plan": """
  leantune plan --data train.csv --model asset:minilm --max-trainable-params 100k
  leantune plan agnews-roberta-as-published model=./roberta-base
""",
    "evaluate": """
  leantune evaluate runs/mine --data test.csv
  leantune evaluate runs/mine/merged --data test.csv --json
""",
    "predict": """
  leantune predict runs/mine new.csv --output predictions.csv
  leantune predict runs/mine "Oil prices rose again on Monday."
  cat new.csv | leantune predict runs/mine -
  leantune predict runs/mine new.csv --output predictions.parquet --probabilities --id-column id
  leantune predict runs/mine 'rows/*.parquet' --output predictions/ --workers 2
  leantune predict runs/mine 's3://bucket/in/*.parquet' --output s3://bucket/out/ --cluster auto --resume
""",
    "serve": """
  leantune serve runs/mine
  leantune serve runs/topic runs/tone --adapter spam=./peft-folder --port 8000
  leantune serve runs/mine --host 0.0.0.0 --api-key "$KEY" --adapter-root ./adapters
""",
    "export": """
  leantune export runs/mine --format lora --output lora-adapter
  leantune export runs/mine --format openvino-int8
""",
    "frontier": """
  leantune frontier --data train.csv --model asset:minilm --output frontier
  leantune frontier --data train.csv --model ./minilm --max-trainable-params 1M --output frontier --train
""",
    "learning-curve": """
  leantune learning-curve --data train.csv --model asset:minilm --max-trainable-params 100k
  leantune learning-curve --data train.csv --validation more.csv --model ./minilm --target 95%
""",
    "audit": """
  leantune audit --data train.csv --model asset:minilm --max-trainable-params 100k --output audit
  leantune audit --data train.csv --model ./minilm --loss robust --folds 3 --output audit
""",
    "abstain": """
  leantune abstain runs/mine --precision 95%
  leantune abstain runs/mine --precision 99% --data labelled.csv
  leantune predict runs/mine new.csv --output predictions.csv --abstain
""",
    "passport": """
  leantune passport runs/mine test.csv
  leantune passport runs/mine test.csv --url http://127.0.0.1:8000 --max-class-loss 1
""",
    "explain": """
  leantune explain runs/mine "Oil prices rose again on Monday."
  leantune explain runs/mine "Oil prices rose again on Monday." --class acq --nearest 5
  leantune explain runs/mine --errors
""",
    "report": """
  leantune report runs/mine
""",
    "push": """
  leantune push runs/mine my-org/my-classifier --private
  leantune push runs/mine my-org/my-classifier --dry-run
""",
    "assets": """
  leantune assets
  leantune assets --path minilm
""",
}
GROUPS: Mapping[str, Sequence[str]] = {
    "data": (
        *("data", "validation", "test", "unlabelled", "validation_size"),
        *("text_column", "text_pair_column", "label_column", "labels", "problem_type"),
        "max_length",
    ),
    "encoder and budget": ("model", "max_trainable_params", "method", "targets", "init_rank", "head"),
    "training": (
        *("output", "effort", "epochs", "batch_size", "learning_rate", "class_weights", "loss", "metric"),
        *("precision", "seed"),
    ),
}
"""The recipe keys that ``--help`` shows; ``--help-all`` shows the others, too."""
WIDTH = 100
