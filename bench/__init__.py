"""rfp-ycsb and rfp-experiments: benchmarks of this package and of others."""

import rfp  # noqa: F401  its ImportError explains what a checkout's folder shadows
