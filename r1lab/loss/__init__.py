"""Log-probabilities -> scalar, pure PyTorch: the definitions that kernels are tested against."""
