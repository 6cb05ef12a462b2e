"""What is measured besides the energy.

A new observable is a subclass of `Observable` in a file of its own, imported here.
"""

from nqs.vmc.observables.broken_symmetry import BrokenSymmetry
from nqs.vmc.observables.correlations import Correlations
from nqs.vmc.observables.diagonal import Diagonal
from nqs.vmc.observables.magnetisation import Magnetisation
from nqs.vmc.observables.observable import (
    Observable,
    Picture,
    Quantity,
    Request,
    applicable,
    expectations,
    owner,
)
from nqs.vmc.observables.order_parameters import OrderParameters
from nqs.vmc.observables.renyi import RenyiEntropy
from nqs.vmc.observables.sigma_x import SigmaX
from nqs.vmc.observables.structure_factor import StructureFactor

__all__ = [
    "BrokenSymmetry",
    "Correlations",
    "Diagonal",
    "Magnetisation",
    "Observable",
    "OrderParameters",
    "Picture",
    "Quantity",
    "RenyiEntropy",
    "Request",
    "SigmaX",
    "StructureFactor",
    "applicable",
    "expectations",
    "owner",
]
