"""What an assembly of isolated experts is compared with (FlexOlmo, arXiv 2507.07024, section 4).

All begin from one dense base model and the same texts. `branch` is a copy of the base trained whole
by one owner; `soup`, the ensembles and `btx` are made of branches. `unrestricted_moe` breaks the
rule that texts stay with their owners, and shows what that rule costs.
"""

from swarm.assembly.baselines.ensembles import output_ensemble, posterior, prompt_routing
from swarm.assembly.baselines.merging import btx, soup
from swarm.assembly.baselines.training import branch, copy_of, fine_tune, unrestricted_moe

__all__ = [
    "branch",
    "btx",
    "copy_of",
    "fine_tune",
    "output_ensemble",
    "posterior",
    "prompt_routing",
    "soup",
    "unrestricted_moe",
]
