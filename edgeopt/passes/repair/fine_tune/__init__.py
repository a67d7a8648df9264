"""Fine-tune: a quantized graph learns what each layer of its float self computes, through its own quantizers.

Its modules run it in torch, and are imported where the repair is asked for.
"""

STEPS = 120
"""Steps of the optimizer."""
BATCH = 8
"""Images a step; they run one after another, so that memory does not grow with it."""
