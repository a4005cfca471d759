"""Evaluation: the loop, the same model without it, and the floors, over length and family."""
