"""DistKV: exact attention over a KV cache whose blocks lie with several instances, which lend each other memory (arXiv 2401.02669)."""
