"""`cullama doctor`: what this machine has, and whether every operator works on it."""
