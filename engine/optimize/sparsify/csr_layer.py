"""The sparse layer itself; its source travels with an exported model, so it needs torch alone."""

import inspect
import warnings

import torch
from torch import nn


class CsrLinear(nn.Module):
    """A Linear layer that holds its nonzero weights alone, in compressed sparse rows.

    A weight costs 8 bytes, value and column, so less than dense storage below half density. The
    product is torch's sparse kernel (MKL on x86) in float32 on the CPU. State: `values` float32
    [nonzero], `columns` int32 [nonzero], `starts` int32 [out + 1], `bias` float32 [out].
    """

    def __init__(
        self, in_features: int, out_features: int, nonzero: int, has_bias: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("values", torch.zeros(nonzero))
        self.register_buffer("columns", torch.zeros(nonzero, dtype=torch.int32))
        self.register_buffer("starts", torch.zeros(out_features + 1, dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(out_features) if has_bias else None)

    def set_weight(self, weight: torch.Tensor) -> None:
        """Takes over the nonzero entries of a dense weight [out, in]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its sparse rows beta, once a process
            found = weight.detach().float().to_sparse_csr()
        self.values = found.values().clone()
        self.columns = found.col_indices().to(torch.int32)
        self.starts = found.crow_indices().to(torch.int32)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight [out, in], made anew by each look, for owners that ask for its dtype."""
        size = (self.out_features, self.in_features)
        made = torch.sparse_csr_tensor
        return made(self.starts, self.columns, self.values, size, check_invariants=False).to_dense()

    @staticmethod
    def product(
        rows: torch.Tensor, values: torch.Tensor, columns: torch.Tensor, starts: torch.Tensor
    ) -> torch.Tensor:
        """Rows [rows, in] times the sparse weight [out, in], as [rows, out]."""
        size = (starts.numel() - 1, rows.shape[1])
        matrix = torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)
        if rows.shape[0] == 1:
            one: torch.Tensor = (matrix @ rows[0]).unsqueeze(0)
            return one
        # A result of its own memory order: what follows finds it contiguous.
        return (matrix @ rows.t()).t().contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [..., out] in the dtype of x [..., in]."""
        rows = x.reshape(-1, self.in_features).float()
        # Where it is registered, one operator, which profilers name and compilers leave whole.
        product = getattr(torch.ops.workbench, "csr_linear", CsrLinear.product)
        y = product(rows, self.values, self.columns, self.starts)
        bias = self._buffers["bias"]
        if bias is not None:
            y = y + bias
        shaped: torch.Tensor = y.reshape(*x.shape[:-1], self.out_features)
        return shaped.to(x.dtype)

    def export_source(self) -> tuple[str, str]:
        """The source of this class, and the call that makes an empty layer like this one."""
        has_bias = self.bias is not None
        arguments = (self.in_features, self.out_features, self.values.numel(), has_bias)
        return inspect.getsource(type(self)), f"CsrLinear{arguments}"

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, nonzero={self.values.numel()}"


def _shape_of(
    rows: torch.Tensor, values: torch.Tensor, columns: torch.Tensor, starts: torch.Tensor
) -> torch.Tensor:
    return rows.new_empty(rows.shape[0], starts.numel() - 1)


torch.library.custom_op("workbench::csr_linear", CsrLinear.product, mutates_args=())
torch.library.register_fake("workbench::csr_linear", _shape_of)
