"""Export a trained classifier to other standard forms: PEFT, transformers (`formats`), ONNX, OpenVINO."""
