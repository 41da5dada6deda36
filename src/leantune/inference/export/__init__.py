"""Other standard forms of a trained classifier: PEFT, transformers (`formats`), OpenVINO (`openvino`)."""
