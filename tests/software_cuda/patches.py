"""The classes and functions of torch's Python side that a CPU-only build has not, or has without CUDA."""

from types import ModuleType


def add_streams(torch: ModuleType) -> None:
    """torch.cuda.Stream and Event, on the device-independent classes."""

    class Stream(torch.Stream):
        def __new__(cls, device=None, priority=0, **kwargs):
            if "stream_id" in kwargs:
                return super().__new__(cls, **kwargs)
            index = torch.cuda._utils._get_device_index(device, optional=True)
            return super().__new__(cls, torch.device("cuda", index), priority=priority)

        def wait_event(self, event):
            event.wait(self)

        def wait_stream(self, stream):
            self.wait_event(stream.record_event())

        def record_event(self, event=None):
            event = Event() if event is None else event
            event.record(self)
            return event

        @property
        def cuda_stream(self):
            return self.stream_id

    class Event(torch.Event):
        def __new__(cls, enable_timing=False, blocking=False, interprocess=False, external=False):
            return super().__new__(cls, torch.device("cuda"), enable_timing=enable_timing)

        def record(self, stream=None):
            super().record(torch.cuda.current_stream() if stream is None else stream)

        def wait(self, stream=None):
            super().wait(torch.cuda.current_stream() if stream is None else stream)

    for module in (torch.cuda, torch.cuda.streams):
        module.Stream, module.Event = Stream, Event


def add_storages(torch: ModuleType) -> None:
    """A CPU build does not know how to make a storage of another device."""

    def new(cls, *args, device=None, **kwargs):
        if device is not None and torch.device(device).type == "cuda":
            torch.cuda._lazy_init()
            size = args[0] if args else 0
            if not isinstance(size, int):
                return torch.tensor(list(size), dtype=torch.uint8, device=device).untyped_storage()
            return torch.empty(size, dtype=torch.uint8, device=device).untyped_storage()
        if device is not None:
            kwargs["device"] = device
        return torch._C.StorageBase.__new__(cls, *args, **kwargs)

    def resize_(self, size):
        if self.device.type != "cuda":
            return torch._C.StorageBase.resize_(self, size)
        torch._C._software_cuda.resize_storage(torch.empty(0, dtype=torch.uint8, device=self.device).set_(self), size)
        return self

    torch.UntypedStorage.__new__ = new
    torch.UntypedStorage.resize_ = resize_
