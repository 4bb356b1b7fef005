"""Holdfast beside what one would build or pick instead."""
