"""A training run, from rows to artefacts; `run` reads from top to bottom.

Before the first step: `folder`, `dataset`, `planning`, `build`, `head_init`, `adapter_init`. The steps: `loop`,
`losses`, `optimizer`. Between steps: `callbacks`, `checkpoint`, `state`, `history`, `signals`. After them: `selection`,
`finalize`, `rows_to_check`, `artefacts`. `resume` goes on; `warnings` says what a user should know; `explain` asks a
finished run why it says what it says.
"""
