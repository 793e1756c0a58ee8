"""`cullama doctor`: describe this machine, and test and time every operator on it."""
