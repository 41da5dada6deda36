"""The APIs of other servers: text-embeddings-inference, vLLM and the Open Inference Protocol."""
