"""Who is there: alive, suspect or dead, parted, gone, or new."""
