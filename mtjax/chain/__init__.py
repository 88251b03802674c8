"""Chains: a paper as a list of steps, each skipped when what it makes is there and was made from what is there now.

A chain is a function in a file of configs/chains/ that returns a list of steps; its keywords are the flags of
`python -m mtjax.chain FILE:FUNCTION`, and `runs` among them is the folder of its workdirs.
"""

from mtjax.chain.steps import Command, Report, Step, extract, mannequin
from mtjax.chain.trained import Cluster, Predict, Retrieve, Train

__all__ = ["Cluster", "Command", "Predict", "Report", "Retrieve", "Step", "Train", "extract", "mannequin"]
