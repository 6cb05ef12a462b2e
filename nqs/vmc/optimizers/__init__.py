"""From samples and local energies to parameter updates; each kind registers itself."""

from nqs.vmc.optimizers.adam import Adam
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.optimizers.optimizer import Optimizer

__all__ = ["Adam", "NaturalGradient", "Optimizer"]
