"""A server that joins broadcast groups over gloo in a thread of this process, and keeps tensors."""

import datetime
import json
import threading

import torch
import torch.distributed as dist

from tests.unit.weight_sync.test_faults import Handler, Server

_TIMEOUT = datetime.timedelta(seconds=20)


class ReceivingServer(Server):
    """Keeps what is broadcast to it: ``received`` by name, with the routes it was called on."""

    def __init__(self, run_dir, name, orders) -> None:
        super().__init__(run_dir, name, orders)
        self.RequestHandlerClass = ReceivingHandler
        self.received: dict[str, torch.Tensor] = {}
        self.groups: dict[str, dist.ProcessGroupGloo] = {}
        self.left = threading.Event()

    def join(self, order: dict) -> None:
        """Do as torch's ``_new_process_group_helper`` does, which a process can do only once."""
        name = order["group_name"]
        store: dist.Store = dist.TCPStore(
            order["master_address"], order["master_port"], is_master=False, timeout=_TIMEOUT
        )
        for prefix in (name, f"{name}/", "cpu/"):
            store = dist.PrefixStore(prefix, store)
        self.groups[name] = dist.ProcessGroupGloo(
            store, order["rank_offset"], order["world_size"], _TIMEOUT
        )

    def receive(self, order: dict) -> None:
        group = self.groups[order["group_name"]]
        if "load_format" in order:
            self._receive_flattened(order, group)
            return
        for name, dtype, shape in zip(
            order["names"], order["dtypes"], order["shapes"], strict=True
        ):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            group.broadcast([tensor]).wait()
            self.received[name] = tensor

    def _receive_flattened(self, order: dict, group: dist.ProcessGroupGloo) -> None:
        """As SGLang's FlattenedTensorBucket: tensors end to end in one buffer of bytes."""
        assert order["load_format"] == "flattened_bucket"
        empty = [
            torch.empty(shape, dtype=getattr(torch, dtype))
            for dtype, shape in zip(order["dtypes"], order["shapes"], strict=True)
        ]
        flat = torch.empty(sum(tensor.nbytes for tensor in empty), dtype=torch.uint8)
        group.broadcast([flat]).wait()
        start = 0
        for name, tensor in zip(order["names"], empty, strict=True):
            part = flat[start : start + tensor.nbytes]
            self.received[name] = part.view(tensor.dtype).reshape(tensor.shape)
            start += tensor.nbytes

    def leave(self, order: dict) -> None:
        del self.groups[order["group_name"]]
        self.left.set()


class ReceivingHandler(Handler):
    server: ReceivingServer

    def parse_request(self) -> bool:
        is_whole = super().parse_request()
        if is_whole and self.path in _ACTS:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            _ACTS[self.path](self.server, json.loads(text))
            self.headers.replace_header("Content-Length", "0")  # it is read
        return is_whole


_ACTS = {
    "/init_weights_update_group": ReceivingServer.join,
    "/update_weights_from_distributed": ReceivingServer.receive,
    "/destroy_weights_update_group": ReceivingServer.leave,
}
