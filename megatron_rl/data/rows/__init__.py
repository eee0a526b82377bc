"""Row readers: problem files of every format as numbered records, read when asked for."""

from megatron_rl.data.rows.formats import open_rows
from megatron_rl.data.rows.protocol import Rows

__all__ = ["Rows", "open_rows"]
