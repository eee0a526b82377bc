"""Let SGLang's weight checker compare on a CPU: it moves both sides to CUDA without asking.

Python runs this in any process that has its folder on PYTHONPATH; only servers of one test do.
"""

import torch

torch.Tensor.cuda = lambda self, *args, **kwargs: self
torch.cuda.synchronize = lambda *args, **kwargs: None
