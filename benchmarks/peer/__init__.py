"""The pipeline that leantune is compared with: transformers and PEFT, used as their docs say."""
