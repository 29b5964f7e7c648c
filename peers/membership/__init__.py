"""The members of the run: alive, suspect or dead, parted, gone, or new."""
