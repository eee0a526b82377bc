"""The CPU path of the same steps, in a process without the absent GPU: ``host_side.py LAYOUT...``.

The last line of its output is JSON: the signature of a bf16 step by layout and case.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.learner.device.precision import Device
from tests.cuda_build.even_experts import even_experts
from tests.cuda_build.passes import step_of_shapes
from tests.cuda_build.surroundings import learner_of, ranks_of, refusal, spec_of
from tests.tiny_models import CASES


def main(layouts: list[str]) -> None:
    platform = CpuPlatform(num_threads=1)
    platform.install()
    with tempfile.TemporaryDirectory() as folder:
        specs = {case: spec_of(case, Path(folder) / str(i)) for i, case in enumerate(CASES)}
    print("\n" + json.dumps({layout: _signatures(layout, specs, platform) for layout in layouts}))


def _signatures(layout: str, specs: Any, platform: CpuPlatform) -> dict[str, Any]:
    host = Device(capability=None, te_version=None)
    seen = {}
    with ranks_of(layout, platform) as parallel, even_experts():
        for case, spec in specs.items():
            if refusal(spec, parallel.layout, "bf16", host) is None:
                seen[case] = step_of_shapes(learner_of(spec, parallel, platform, "bf16"))
    return seen


if __name__ == "__main__":
    main(sys.argv[1:])
