"""What concerns the whole process: forks of it, and Ctrl-C."""
