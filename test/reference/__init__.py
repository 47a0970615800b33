"""Plain variants, pinned: what anyone would write first, so that a speed-up is measured against
that.

They are never made faster. `dyndepth benchmark` measures them in turn with the product's own code,
and test_benchmark.py shows that both compute the same. They import nothing of dyndepth.
"""
