"""Our casts on every fp32 bit pattern, against the exact table search."""
