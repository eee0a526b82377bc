"""Attention sinks for kernels that know of none: a further key in further dimensions.

Shape letters: S = sequences, L = tokens, Q = query heads, G = key/value heads, D = head dimension,
H = query heads of a group, E = further dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_MULTIPLE = 8
"""Kernels for GPUs take head dimensions that are a multiple of this."""


def prepend_sinks(
    query_SLQD: Tensor, key_SLGD: Tensor, value_SLGD: Tensor, sinks_Q: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value with a sink before each sequence, in D + E dimensions.

    The sink is a key whose product with any query of head q is ``sinks_Q[q]``, and whose value is
    zero. Heads of a group share their key: each finds its sink in dimensions of its own, in which
    its queries are 1, the group's other queries and all other keys 0. It has two of them, for what
    the type holds of its sink and for what that leaves out. A query is put before the others as
    well, which keeps attention causal; what comes of it is of no use.
    """
    groups = key_SLGD.size(2)
    heads = query_SLQD.size(2) // groups
    unused = -2 * heads % _MULTIPLE
    exact_GH = sinks_Q.float().view(groups, heads)
    held_GH = exact_GH.to(query_SLQD.dtype)
    rest_GH = (exact_GH - held_GH.float()).to(query_SLQD.dtype)
    sink_GE = F.pad(torch.cat([held_GH, rest_GH], dim=1), (0, unused))
    own_HH = torch.eye(heads, device=query_SLQD.device, dtype=query_SLQD.dtype)
    ones_HE = F.pad(torch.cat([own_HH, own_HH], dim=1), (0, unused))
    ones_QE = ones_HE.repeat(groups, 1)
    width = ones_QE.size(1)
    query = torch.cat([query_SLQD, ones_QE.expand(*query_SLQD.shape[:3], width)], dim=-1)
    sink_GD = F.pad(sink_GE, (key_SLGD.size(3), 0))
    sink_SLGD = sink_GD.expand(len(key_SLGD), 1, *sink_GD.shape)
    return (
        F.pad(query, (0, 0, 0, 0, 1, 0)),
        torch.cat([sink_SLGD, F.pad(key_SLGD, (0, width))], dim=1),
        F.pad(value_SLGD, (0, width, 0, 0, 1, 0)),
    )
