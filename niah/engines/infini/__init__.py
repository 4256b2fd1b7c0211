"""Infini-attention: segments read with local attention, everything before them through a memory of constant size."""
