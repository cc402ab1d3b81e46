"""Quality against size, without fine-tuning after the resize: what each choice in conversion and training is worth.

python -m benchmarks.experiments [study ...] [--tasks digits photos] [--seeds 4] [--out build/experiments]

Two tasks (`tasks`), the demo's: digits, accuracy of a convolutional network; photos, PSNR of a super-resolution
network. A *variant* (`variants`) is what is done with a trained discrete network; a *study* lists variants that differ
from a base in one choice. Each run, one variant with one seed, is a line of `runs.jsonl` (`runs`): a program that was
stopped goes on where it was, and with `benchmarks/results/experiments.jsonl` in its place the committed runs are taken
as made. Printed are Markdown tables (`tables`), and drawn are plots (`plots`).
"""
