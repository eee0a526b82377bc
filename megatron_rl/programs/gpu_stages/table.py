"""Table of all stages in their order, those that need nothing else first."""

from megatron_rl.programs.gpu_stages.serving.server import EAGER, GRAPHS
from megatron_rl.programs.stage_runs.stage import Stage

_HERE = "megatron_rl.programs.gpu_stages"
KEEP_SERVER = f"{_HERE}.serving.server:keep"
"""Work of the process that keeps a server."""

STAGES = (
    Stage(
        name="device",
        shows="GPUs, driver, memory; a matrix product is right",
        work=f"{_HERE}.device:check",
        limit_s=120,
    ),
    Stage(
        name="all-reduce",
        shows="NCCL sums over the GPUs of this machine",
        work=f"{_HERE}.all_reduce:check",
        limit_s=180,
    ),
    Stage(
        name="layers",
        shows="Transformer Engine's layers against torch's in float32, forward and backward",
        work=f"{_HERE}.learning.layers:check",
        limit_s=240,
    ),
    Stage(
        name="fp8",
        shows="each recipe of FP8 against bf16",
        work=f"{_HERE}.learning.fp8:check",
        limit_s=300,
    ),
    Stage(
        name="layouts",
        shows="tensor, context, pipeline and data parallel against one rank",
        work=f"{_HERE}.learning.layouts:check",
        limit_s=300,
        num_gpus=2,
    ),
    Stage(
        name="speed-bf16",
        shows="MFU of a model of a billion parameters in bf16",
        work=f"{_HERE}.learning.speed:check_bf16",
        limit_s=240,
    ),
    Stage(
        name="speed-fp8",
        shows="MFU of the same model in FP8",
        work=f"{_HERE}.learning.speed:check_fp8",
        limit_s=240,
    ),
    Stage(
        name="memory",
        shows="memory of the same model against the planner's estimate",
        work=f"{_HERE}.learning.memory:check",
        limit_s=240,
    ),
    Stage(
        name="parity-eager",
        shows="log-probs of the server, without CUDA graphs, are the learner's",
        work=f"{_HERE}.serving.parity:check",
        limit_s=420,
        server=EAGER,
    ),
    Stage(
        name="parity-graphs",
        shows="log-probs of the server, with CUDA graphs, are the learner's",
        work=f"{_HERE}.serving.parity:check",
        limit_s=480,
        server=GRAPHS,
    ),
    Stage(
        name="broadcast",
        shows="weights reach the server, and are those that were sent",
        work=f"{_HERE}.serving.broadcast:check",
        limit_s=180,
        server=GRAPHS,
    ),
    Stage(
        name="shards",
        shows="a server proves shards, and has the learner's weights by them",
        work=f"{_HERE}.serving.shards:check",
        limit_s=240,
        # Over gloo, which a GPU that is shared would take, no memory of a GPU travels.
        num_gpus=2,
        server=GRAPHS,
    ),
    Stage(
        name="load",
        shows="updates in flight while the server is busy and the learner trains",
        work=f"{_HERE}.serving.load:check",
        limit_s=240,
        server=GRAPHS,
    ),
    Stage(
        name="generation",
        shows="tokens per second of the server",
        work=f"{_HERE}.serving.generation:check",
        limit_s=120,
        server=GRAPHS,
    ),
    Stage(
        name="demo",
        shows="the demo of the repository learns",
        work=f"{_HERE}.demo:check",
        limit_s=900,
    ),
    Stage(
        name="nodes",
        shows="NCCL sums over the nodes of a Slurm job",
        work=f"{_HERE}.nodes:check",
        limit_s=180,
    ),
)
