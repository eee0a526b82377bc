"""Settings of a run on a Slurm cluster: which nodes, which environment, when to give up."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from megatron_rl.config.base import LaxPath, Lines, NonNegative, Positive, Seconds, Section


class PlacementConfig(Section):
    """Number of nodes for each kind of program."""

    learner_nodes: Positive | None = None
    """Nodes of the learner's ranks, the first ones; as few as hold them when not given."""
    generator_nodes: Positive | None = None
    """Nodes of the servers, the last ones; those the learner leaves free when not given, or all
    nodes when it leaves none."""
    rollout_node: Literal["first", "last"] = "last"
    """Node of rollout and its judges."""
    heterogeneous: bool = False
    """One component of a heterogeneous job each for learner, servers and rollout; the last needs no
    GPU."""


class ContainerConfig(Section):
    """Images the programs run in; both hold this package, the second one SGLang as well."""

    runtime: Literal["none", "apptainer", "pyxis"] = "none"
    """none: bare virtual environments; pyxis: Enroot images through srun's plugin."""
    learner_image: str | None = None
    """Image of learn, sft, rollout and doctor."""
    generator_image: str | None = None
    """Image of serve; learner_image when not given."""
    mounts: Lines = ()
    """HOST:CONTAINER folders; the run folder and the model must be among them."""
    python: str = "python3"
    """Interpreter within the images that has this package."""
    unpack_once: bool = False
    """pyxis: a node's steps share one unpacked image, which preflight unpacks. Its name is the
    job's; it is left behind where the plugin's container_scope is not job."""


class LaunchConfig(Section):
    """One Slurm job."""

    nodes: Positive = 1
    """Nodes of the job, rollout's own component of a heterogeneous job not counted."""
    gpus_per_node: NonNegative = 8
    """0 for nodes that compute on their CPUs."""
    gpu_gres: Annotated[str, Field(pattern=r"^\w+(:[\w.-]+)?$")] | None = None
    """Name of a GPU for --gres, such as "gpu:a100";
    --gpus-per-node when not given."""
    gpu_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of one GPU in GiB, for ``plan`` to compare its estimate with; not compared when not
    given."""
    cpus_per_node: Positive | None = None
    """CPUs to ask for on every node; all of them when not given."""
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] = "04:00:00"
    """Limit of one attempt, as sbatch takes it: [DAYS-]HOURS:MINUTES:SECONDS."""
    job_name: str | None = None
    """Name in squeue; made of the run folder when not given. Jobs of one name wait for each
    other in a chain."""
    partition: str | None = None
    """Partition of the GPU nodes; the cluster's default when not given."""
    rollout_partition: str | None = None
    """Partition of rollout's node in a heterogeneous job."""
    account: str | None = None
    """Account that the time is charged to."""
    qos: str | None = None
    """Quality of service."""
    sbatch: dict[str, Any] = Field(default_factory=dict)
    """Any other option of sbatch, without dashes; true is a bare one."""
    site: LaxPath | None = None
    """TOML file of the cluster, with modules, setup, env and sbatch; see launchers/slurm/sites."""
    modules: Lines = ()
    """Environment modules to load before anything else."""
    setup: Lines = ()
    """Shell lines to run after that, on the head node; what they export reaches every program."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every program."""
    python: LaxPath = Path(".venv/bin/python")
    """Interpreter of the learner's environment, on a folder that all nodes see."""
    placement: PlacementConfig = PlacementConfig()
    container: ContainerConfig = ContainerConfig()
    preflight: bool = True
    """Check every node before any model is loaded."""
    preflight_timeout_s: Seconds = 120.0
    """Longest time of one node check; unpacking an image counts."""
    servers_timeout_s: Seconds = 1800.0
    """Longest time until the learner, once it is up, has given weights to a server."""
    signal_s: Positive = 300
    """Seconds before the time limit at which Slurm asks the learner to save."""
    when_time_is_up: Literal["requeue", "exit"] = "requeue"
    """requeue: the job queues itself again and goes on; exit: it ends with 75, for chains made with
    --dependency=singleton."""
    teardown_s: Seconds = 15.0
    """Time programs get to end once one has failed, before they are killed; noticing and killing
    take a few seconds more, and 30 are promised."""
    cancel_grace_s: Seconds = 3600.0
    """Time the learner gets to save when the job is cancelled or preempted; Slurm's own grace is
    mostly shorter."""
