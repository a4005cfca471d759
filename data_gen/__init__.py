"""Data generation: a teacher works in the executor; its good runs become a dataset."""
