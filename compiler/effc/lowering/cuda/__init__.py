"""Code for NVIDIA's GPUs: default schedules, lowering to CUDA C, and nvcc."""
