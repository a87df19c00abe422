"""Triton drop-ins with the names and signatures of the definitions in `loss`; only this package knows triton.

    launch             a kernel launched for chunk after chunk
    rows               the kernels over rows of logits: statistics, exponentials in place, gradient in place
    product            the head's product with the rows' statistics in its epilogue: bfloat16 on Hopper and later
    chunks             the head a chunk of tokens at a time: buffers, products, the weight's gradient
    linear_logprob     hidden states -> logprob, entropy, argmax hit; the same for logits that already exist
    k3                 the per-token estimators of the KL
    linear_grpo_loss   hidden states -> the GRPO loss and its metrics, gradients made in the forward pass
    dry                what these allocate, by allocating it on fake tensors; without triton
    linear_distill_loss  the hidden states of two models -> their divergence, likewise

Under torch.compile these are not traced: the model around them is, in graphs that end where they begin.

Import a module of it where a CUDA device is there: `import r1lab.kernel` alone does not import triton.
"""
