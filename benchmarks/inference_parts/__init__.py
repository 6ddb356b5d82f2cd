"""The parts of `benchmarks/inference.py`: inputs, the jobs that run in processes of their own, and the report."""
