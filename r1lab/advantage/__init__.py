"""Rewards of a group of completions -> advantages."""
