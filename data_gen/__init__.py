"""Data generation: tasks go to a teacher behind the executor; its runs become a filtered dataset."""
