"""Swarms in the trainers of other projects, each an extra of its own: nothing here is imported by anything else."""
