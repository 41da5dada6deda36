"""After the last step: choose, measure and write the checkpoint, and list rows worth checking."""
