"""Turns PyTorch models into the files that Abacus serves. The entry point is models/export.py.

cli        command line
catalogue  the models known by name, and their groups
vision, text, testing, user   build one model each: module + declared inputs
pipeline   build -> TorchScript -> discover outputs -> verify -> load in the worker program -> publish
runner     runs the module and compares; sampling makes the inputs, precision says what rounding explains
tracing    trace and what it loses; state, first_query   memory of queries and random numbers
claims     which queries may be padded and batched; capture   whether a GPU can serve it
outputs    what forward() takes and returns
file_kind  what a file is that is no TorchScript
spec       NAME.toml; worker   the worker program's verdict; publish   files put in place by renaming
"""
