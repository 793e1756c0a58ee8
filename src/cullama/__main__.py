"""`python -m cullama`."""

from .cli import main

main()
