"""Environment of a step's srun: the part of the batch script's that it may see. Pure."""

from collections.abc import Mapping

# Every input variable of srun (its manual page, 22.05 and later): values that sbatch's
# options or the user's shell left in them would become options of a step.
_NAMES = """
ACCOUNT ACCTG_FREQ BCAST BCAST_EXCLUDE BURST_BUFFER CLUSTERS COMPRESS CONSOLIDATE_SEGMENTS
CONSTRAINT CORE_SPEC CPUS_PER_GPU CPUS_PER_TASK CPU_BIND CPU_BIND_LIST CPU_BIND_TYPE
CPU_BIND_VERBOSE CPU_FREQ_REQ DELAY_BOOT DEPENDENCY DISABLE_STATUS DISTRIBUTION DIST_PLANESIZE
EPILOG EXACT EXCLUSIVE EXIT_ERROR EXIT_IMMEDIATE EXPORT_ENV GPUS GPUS_PER_NODE GPUS_PER_SOCKET
GPUS_PER_TASK GPU_BIND GPU_FREQ GRES GRES_FLAGS HINT IMMEDIATE JOB_NAME JOB_NUM_NODES
KILL_BAD_EXIT LABELIO MEM_BIND MEM_BIND_LIST MEM_BIND_PREFER MEM_BIND_SORT MEM_BIND_TYPE
MEM_BIND_VERBOSE MEM_PER_CPU MEM_PER_GPU MEM_PER_NODE MPI_TYPE NNODES NO_KILL NPROCS NTASKS
NTASKS_PER_CORE NTASKS_PER_GPU NTASKS_PER_NODE NTASKS_PER_SOCKET NTASKS_PER_TRES OOM_KILL_STEP
OPEN_MODE OVERCOMMIT OVERLAP PARTITION PMI_KVS_NO_DUP_KEYS POWER PROFILE PROLOG QOS REMOTE_CWD
REQ_SWITCH RESERVATION RESV_PORTS SEGMENT_SIZE SEND_LIBS SIGNAL SPREAD_JOB
SRUN_REDUCE_TASK_EXIT_MSG STDERRMODE STDINMODE STDOUTMODE STEP_GRES STEP_KILLED_MSG_NODE_ID
TASK_EPILOG TASK_PROLOG TEST_EXEC THREADS THREADS_PER_CORE THREAD_SPEC TIMELIMIT TREE_WIDTH
TRES_BIND TRES_PER_TASK UMASK UNBUFFEREDIO USE_MIN_NODES WAIT WCKEY WORKING_DIR
"""
_OPTIONS_OF_SRUN = frozenset(f"SLURM_{name}" for name in _NAMES.split())
# Variables of torchrun or of a launcher around this one; srun sets the ranks.
_RANKS = frozenset(["RANK", "LOCAL_RANK", "WORLD_SIZE"])


def inherited_by_steps(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without variables that srun would take for options of a step.

    The variables of Slurm that stay identify the job, its controller and its network:
    SLURM_JOB_ID, SLURM_CONF, SLURM_NETWORK, the output variables of sbatch.
    """
    return {
        name: value
        for name, value in environment.items()
        if not (name in _OPTIONS_OF_SRUN or name in _RANKS or name.startswith("SRUN_"))
    }
