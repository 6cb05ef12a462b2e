"""The patches of a model written out: what `auto` stands for on one lattice, for use on another."""

from __future__ import annotations

from hamiltonians.lattices.lattice import Lattice
from nqs.conf.kinds import Selection
from nqs.core import SequenceModel
from nqs.wavefunctions.large_patches import auto_large
from nqs.wavefunctions.patches import auto_spec


def groups_tokens(model: Selection) -> bool:
    """Whether patches are within large ones."""
    kind: type[SequenceModel] = model.kind
    return kind.groups_tokens


def written_out(model: Selection, lattice: Lattice) -> Selection:
    """The model with the patches that it has on this lattice in place of auto. Raises ValueError
    for those that the lattice does not have."""
    if groups_tokens(model):
        sub = auto_spec(lattice) if model.sub_patch == "auto" else model.sub_patch
        patch = auto_large(lattice, sub) if model.patch == "auto" else model.patch
        return model.replace(patch=patch, sub_patch=sub)
    if model.patch != "auto":
        return model
    spec = model.build_common().spec(lattice, model)
    return model.replace(patch=auto_spec(lattice) if spec == "auto" else spec)


def like_source(model: Selection, source: Selection, lattice: Lattice) -> Selection:
    """The model with the patches of the model `source`, on its lattice, in place of auto; as it is
    where one of the two has patches within large ones and the other has not."""
    if groups_tokens(model) != groups_tokens(source):
        return model
    theirs = written_out(source, lattice)
    keys = ("patch", "sub_patch") if groups_tokens(model) else ("patch",)
    changes = {key: theirs.values[key] for key in keys if model.values[key] == "auto"}
    return model.replace(**changes) if changes else model
