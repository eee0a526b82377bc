"""Memory and time of log-probabilities, by the chunk and from all logits at once.

    python benchmarks/logprobs.py [--quick]

Hidden states of T tokens and an output layer of V entries to log-probabilities, entropy and their
gradients, float32. Each measurement is a process of its own; memory is what its peak grows by
beyond inputs and gradients, beside one [T, V] tensor of float32 logits. "plain" is torch's
log_softmax of all logits, and all chunks compute the same gradient.
"""

import json
import math
import resource
import subprocess
import sys
import time
from typing import Any

from table import parser_of, show_and_keep

HIDDEN_SIZE = 64
_MIB = 2**20
_MEASURE = "--measure"
"""First argument of a process that is one measurement."""


def measure(way: str, num_tokens: int, vocab_size: int, chunk_tokens: int) -> dict[str, float]:
    """Run forward and backward once in this process; return MiB of peak growth and seconds."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    # What libraries set up at their first call is none of the memory in question.
    _forward_and_backward(way, *_inputs(2, 8), chunk_tokens)
    inputs = _inputs(num_tokens, vocab_size)
    before, started = _peak_mib(), time.perf_counter()
    _forward_and_backward(way, *inputs, chunk_tokens)
    seconds = time.perf_counter() - started
    return {
        "mib": _peak_mib() - before,
        "seconds": seconds,
        "checksum": float(inputs[1].grad.norm()),
    }


def _inputs(num_tokens: int, vocab_size: int) -> tuple[Any, Any, Any]:
    """Return hidden states, output layer and targets; gradients are there already, as in DDP."""
    import torch

    torch.manual_seed(0)
    hidden_TH = torch.randn(num_tokens, HIDDEN_SIZE, requires_grad=True)
    weight_VH = torch.randn(vocab_size, HIDDEN_SIZE).div_(math.sqrt(HIDDEN_SIZE)).requires_grad_()
    for tensor in (hidden_TH, weight_VH):
        tensor.grad = torch.zeros_like(tensor).fill_(0)
    return hidden_TH, weight_VH, torch.randint(vocab_size, (num_tokens,))


def _forward_and_backward(
    way: str, hidden_TH: Any, weight_VH: Any, targets_T: Any, chunk_tokens: int
) -> None:
    logprobs_T, entropy_T = _score(way, hidden_TH, weight_VH, targets_T, chunk_tokens)
    (logprobs_T.sum() + 0.01 * entropy_T.sum()).backward()


def _score(way: str, hidden_TH: Any, weight_VH: Any, targets_T: Any, chunk_tokens: int) -> Any:
    import torch
    import torch.distributed as dist

    from megatron_rl.learner.logprobs import token_logprobs_and_entropy

    if way == "plain":
        scores_TV = torch.log_softmax(hidden_TH @ weight_VH.t(), dim=-1)
        entropy_T = -(scores_TV.exp() * scores_TV).sum(-1)
        return scores_TV.gather(1, targets_T[:, None])[:, 0], entropy_T
    return token_logprobs_and_entropy(
        hidden_TH,
        weight_VH,
        targets_T,
        temperature=1.0,
        entropy_has_gradient=True,
        num_real=len(weight_VH),
        tp_group=dist.group.WORLD,
        chunk_tokens=chunk_tokens,
        is_fp32=False,
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(way: str, num_tokens: int, vocab_size: int, chunk_tokens: int) -> dict[str, float]:
    """Measure in a process that has done nothing else."""
    arguments = [way, num_tokens, vocab_size, chunk_tokens]
    command = [sys.executable, __file__, _MEASURE, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def row_of(way: str, num_tokens: int, vocab_size: int, chunk_tokens: int) -> dict[str, Any]:
    """Return one row of the table."""
    measured = in_a_process(way, num_tokens, vocab_size, chunk_tokens)
    logits_mib = 4 * num_tokens * vocab_size / _MIB
    return {
        "way": "all at once" if way == "chunked" and not chunk_tokens else way,
        "chunk": chunk_tokens,
        "T": num_tokens,
        "V": vocab_size,
        "logits MiB": logits_mib,
        "extra MiB": measured["mib"],
        "extra / logits": measured["mib"] / logits_mib,
        "seconds": measured["seconds"],
        "gradient": measured["checksum"],
    }


def main() -> None:
    """Measure at two lengths, so that what grows with T shows."""
    if sys.argv[1:2] == [_MEASURE]:
        way, *numbers = sys.argv[2:]
        print(json.dumps(measure(way, *map(int, numbers))))
        return
    options = parser_of(__doc__).parse_args()
    from megatron_rl.config import resolve_chunk_tokens

    lengths, vocab_size = ((512, 1024), 65536) if options.quick else ((2048, 4096), 131072)
    chunk = resolve_chunk_tokens(None, vocab_size=vocab_size, tp=1, is_gpu=False)
    ways = [("chunked", 0), ("chunked", 4 * chunk), ("chunked", chunk)]
    # Of the longer row, torch's own way would take more memory than a small machine has.
    rows = [row_of("plain", lengths[0], vocab_size, 0)]
    rows += [row_of(way, length, vocab_size, size) for length in lengths for way, size in ways]
    for length in lengths:
        first, *others = [row["gradient"] for row in rows if row["T"] == length]
        assert all(math.isclose(first, other, rel_tol=1e-4) for other in others), rows
    show_and_keep("logprobs", "Log-probs and gradients, float32", rows, output=options.output)


if __name__ == "__main__":
    main()
