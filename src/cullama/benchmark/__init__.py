"""Speed, reported beside the limits of the machine it was measured on, in the same run."""
