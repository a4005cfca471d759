"""Scripted experts: programs that solve the synthetic families turn by turn in the real REPL.

An expert's module has two functions. ``next_turn(question, seen, style)`` gives the next reply
from the question and the outputs of the cells so far, as a model would, or None if the question
is of another family; ``leaf(prompt)`` answers the sub-calls that it sends, or None for others'.
"""
