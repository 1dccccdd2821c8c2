"""Benchmarks: train each method on each task with each seed, in processes, and write tables of the results."""
