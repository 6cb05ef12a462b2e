"""Where local energies come from: which draws, and how their flips are computed.

A new kind is a subclass of `Energies` in a file of its own, imported here.
"""

from nqs.vmc.energies.blurred import Blurred
from nqs.vmc.energies.energies import Energies
from nqs.vmc.energies.estimates import Estimates
from nqs.vmc.energies.exact import Exact
from nqs.vmc.energies.near_flips import NearFlips

__all__ = ["Blurred", "Energies", "Estimates", "Exact", "NearFlips"]
