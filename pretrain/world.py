"""Which rank this process is, of how many, and the few sums that all of them take together."""

from dataclasses import dataclass

import torch
from torch import distributed

_LIMB_BITS = 32


@dataclass(frozen=True)
class World:
    """A rank's place among all ranks, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Tell whether this rank is the one that writes and reports."""
        return self.rank == 0

    def sum_floats(self, *values: float) -> list[float]:
        """Add up numbers over all ranks in float64."""
        return self._summed(torch.tensor(values, dtype=torch.float64)).tolist()

    def sum_integer(self, value: int, bits: int) -> int:
        """Add up non-negative integers of up to `bits` bits over all ranks, modulo 2^bits."""
        limbs = [(value >> shift) & (2**_LIMB_BITS - 1) for shift in range(0, bits, _LIMB_BITS)]
        summed = self._summed(torch.tensor(limbs, dtype=torch.int64)).tolist()
        return int(sum(limb << (i * _LIMB_BITS) for i, limb in enumerate(summed)) % 2**bits)

    def any_of(self, value: bool) -> bool:
        """Tell all ranks whether it holds on one of them at least."""
        return self.sum_floats(float(value))[0] > 0

    def agree(self, value: int) -> int:
        """Give all ranks the first one's integer, from 0 to 2^63 - 1."""
        return self.sum_integer(value if self.is_first else 0, 64)

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            is_gpu = self.device.type == "cuda"
            distributed.barrier(device_ids=[self.device.index] if is_gpu else None)

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        if self.size == 1:
            return values
        shared = values.to(self.device)
        distributed.all_reduce(shared)
        return shared.cpu()
