"""The table of operators that multiply and add: nothing of torch's is missing in it, and all who ask say the same."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.cost.accelerator.layers import _READERS, products_of
from effc.cost.accelerator.operators import MULTIPLYING
from effc.data import Dataset
from effc.errors import ConfigError, UnsupportedModelError
from effc.faultsim.accelerator import for_array, gemms_of
from effc.frontends import load_program
from effc.ir import OPS

SAYS_SO = re.compile(
    r"mm$|mm_|mv$|dot|inner$|outer|^ger$|addr$|kron|einsum|vec|householder|product|orgqr|ormqr|cov$|corrcoef"
    r"|conv|linear|attention|encoder|lstm|gru|rnn|cell|cdist|pdist|euclid|matrix|matmul|gemm|cross"
)
ELSE = {
    "products without sums": ("outer", "ger", "kron", "cross", "linalg_cross", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell"),
    "sums within one value": ("pdist", "_pdist_forward", "linalg_vector_norm", "linalg_matrix_norm", "linalg_matrix_rank"),
    "losses": ("binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy_loss"),
    "interpolation": (
        *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa"),
        *("__upsample_bilinear",),
    ),
    "weights and indices in another form": (
        *("_convert_indices_from_coo_to_csr", "_convert_indices_from_csr_to_coo", "_convert_weight_to_int4pack", "_cslt_sparse_mm_search"),
        *(
            "_convert_weight_to_int4pack_for_cpu",
            "_cudnn_rnn_flatten_weight",
            "_use_cudnn_rnn_flatten_weight",
            "mkldnn_reorder_conv2d_weight",
        ),
        *("mkldnn_reorder_conv3d_weight", "fbgemm_linear_quantize_weight", "fbgemm_pack_gemm_matrix_fp16", "fbgemm_pack_quantized_matrix"),
        *("_wrapped_linear_prepack", "_dyn_quant_pack_4bit_weight", "matrix_H"),
    ),
}


def all_names() -> set[str]:
    """Of torch's operators; in-place ones by the name of their twins, as programs have them."""
    found = {name.removeprefix("aten::").split(".")[0].rstrip("_") for name in torch._C._dispatch_get_all_op_names() if "aten::" in name}
    return {name for name in found if "backward" not in name}


def test_every_operator_whose_name_says_that_it_multiplies_is_known() -> None:
    left_out = {name for names in ELSE.values() for name in names}
    said = {name for name in all_names() if SAYS_SO.search(name)}
    assert len(said) > 100
    assert said - MULTIPLYING - left_out == set()
    assert not MULTIPLYING & left_out
    assert {name for name in MULTIPLYING if not SAYS_SO.search(name)} == set(), "the patterns find all that are known"


def test_the_table_has_what_is_read() -> None:
    read = {target._schema.name for target in _READERS}
    assert {name.removeprefix("aten::") for name in read if name.startswith("aten::")} < MULTIPLYING
    products = {definition.name for definition in OPS if "conv" in definition.name or "matmul" in definition.name}
    assert {name.removeprefix("effc::") for name in read if name.startswith("effc::")} == products


class Given(nn.Module):
    """One product, before a linear layer."""

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.call, self.matrix, self.linear = call, nn.Parameter(torch.ones(4, 4)), nn.Linear(4, 3)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(self.call(x, self.matrix))
        return result


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.linear = nn.RNNCell(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(torch.cdist(self.cell(x), x))
        return result


READ = {
    "inner": Given(torch.inner),
    "linalg_matmul": Given(torch.linalg.matmul),
    "addmv": Given(lambda x, matrix: torch.addmv(x[0], matrix, x[0])[None]),
}
REFUSED = {
    "tensordot": Given(lambda x, matrix: torch.tensordot(x, matrix, ([1], [0]))),
    "chain_matmul": Given(lambda x, matrix: torch.linalg.multi_dot([x, matrix, matrix])),
    "cell": Cell(),
    "conv_tbc": Given(lambda x, matrix: torch.conv_tbc(x[None], matrix[None], matrix[0])[0]),
    "einsum": Given(lambda x, matrix: torch.einsum("bi,ij->bj", x, matrix)),
    "vdot": Given(lambda x, matrix: matrix * torch.linalg.vecdot(x, x)),
}


@pytest.mark.parametrize("name", [*READ, *REFUSED])
def test_no_product_is_left_out_in_silence(name: str) -> None:
    """Either it is counted, or it is refused; the array's int8 numbers and its faults refuse it in each case."""
    program = load_program((READ | REFUSED)[name].eval(), example_inputs=(torch.zeros(4, 4),))
    data = Dataset({program.interface.inputs[0].name: np.zeros((4, 4), np.float32)})
    others = sum(
        str(node.target).split(".")[1:2] != ["linear"] and str(node.target).split(".")[1] in MULTIPLYING
        for node in program.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    )
    assert others
    if name in READ:
        assert [one.op for one in products_of(program)] == [name, "linear"]
    else:
        with pytest.raises(UnsupportedModelError) as unread:
            products_of(program)
        assert len(unread.value.problems) == others
    with pytest.raises(ConfigError) as unquantised:
        for_array(program, data)
    assert len(unquantised.value.problems) == others
    with pytest.raises(ConfigError) as floats:
        gemms_of(program)
    assert len(floats.value.problems) == others + 1
