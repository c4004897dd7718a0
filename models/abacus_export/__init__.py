"""Turns PyTorch models into the files that Abacus serves. The entry point is models/export.py.

cli        command line
catalogue  the models known by name, and their groups
vision, text, testing, user   build one model each: module + declared inputs
pipeline   build -> TorchScript -> discover outputs -> verify -> write
tracing    trace and what it loses; state   memory of queries and random numbers
outputs    what forward() returns
file_kind  what a file is that is no TorchScript
spec       NAME.toml; sampling   inputs to run a module on
"""
