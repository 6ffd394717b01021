"""The parts of tools/gpu_check.py, and the list of CUDA branches that its page shows. Not in the wheel."""
