"""The ATen operators whose results are sums of products of two tensors: what an array of multipliers is for. One table for all who ask.

The model of cost reads some of them (`layers`) and refuses the others; a program that is quantised for the array, or put on it with
faults, has no other products than those of int8 numbers. Were a name missing, its work would be left out of all of these without a word. So
names that no program is likely to hold (what torch calls inside, for each device) are here, too, and a test goes through all of torch's.

What is not in it, though its name may say so: products without sums (`outer`, `kron`, `cross`, cells whose gates were multiplied before),
sums within one value (norms, distances of pairs), interpolation and its coordinates, Fourier transforms, solving and decomposing, and what
packs weights.
"""

from __future__ import annotations

__all__ = ["MULTIPLYING"]

_CONVOLUTIONS = (
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv_tbc", "conv_depthwise3d"),
    *("convolution", "_convolution", "_convolution_mode", "convolution_overrideable", "_conv_depthwise2d", "thnn_conv2d"),
    *("slow_conv3d", "slow_conv3d_forward", "slow_conv_dilated2d", "slow_conv_dilated3d", "slow_conv_transpose2d"),
    *("slow_conv_transpose3d", "_slow_conv2d_forward", "_nnpack_spatial_convolution", "mkldnn_convolution"),
    *("_mps_convolution", "_mps_convolution_transpose", "cudnn_convolution", "cudnn_convolution_add_relu", "cudnn_convolution_relu"),
    *("cudnn_convolution_transpose", "miopen_convolution", "miopen_convolution_add_relu", "miopen_convolution_relu"),
    *("miopen_convolution_transpose", "miopen_depthwise_convolution"),
)
_LINEAR = (
    *("linear", "bilinear", "_trilinear", "mkldnn_linear", "_mixed_dtypes_linear", "_sparse_semi_structured_linear"),
    *("fbgemm_linear_fp16_weight", "fbgemm_linear_fp16_weight_fp32_activation", "fbgemm_linear_int8_weight"),
    *("fbgemm_linear_int8_weight_fp32_activation", "_wrapped_quantized_linear_prepacked"),
)
_MATRICES = (
    *("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "tensordot", "einsum", "chain_matmul", "addmm", "baddbmm", "addbmm", "addmv"),
    *("addr", "linalg_matmul", "linalg_multi_dot", "linalg_vecdot", "linalg_matrix_power", "matrix_power", "linalg_matrix_exp"),
    *("matrix_exp", "_compute_linear_combination", "linalg_householder_product", "orgqr", "ormqr", "cov", "corrcoef"),
    *("cdist", "_cdist_forward", "_euclidean_dist"),  # |x|^2 - 2 x y + |y|^2: a matrix product where there are many
    *("_addmm_activation", "_int_mm", "_scaled_mm", "_scaled_mm_v2", "_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2"),
    *("_foreach_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu", "_weight_int4pack_mm_with_scales_and_zeros"),
    *("_weight_int8pack_mm", "_dyn_quant_matmul_4bit", "smm", "hspmm", "sspaddmm", "sparse_sampled_addmm", "_sparse_mm", "_sparse_addmm"),
    *("_sparse_sparse_matmul", "_sparse_mm_reduce_impl", "_cslt_sparse_mm", "_sparse_semi_structured_mm", "_sparse_semi_structured_addmm"),
)
_ATTENTION = (
    *("scaled_dot_product_attention", "_scaled_dot_product_attention_math", "_scaled_dot_product_attention_math_for_mps"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention"),
    *("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable", "_flash_attention_forward"),
    *("_flash_attention_forward_no_dropout_inplace", "_efficient_attention_forward", "_cudnn_attention_forward"),
    *("_native_multi_head_attention", "_triton_multi_head_attention", "_triton_scaled_dot_attention", "_transformer_encoder_layer_fwd"),
)
_RECURRENT = (
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "quantized_lstm", "quantized_gru"),
    *("quantized_lstm_cell", "quantized_gru_cell", "quantized_rnn_tanh_cell", "quantized_rnn_relu_cell"),
    *("_cudnn_rnn", "miopen_rnn", "mkldnn_rnn_layer", "_lstm_mps"),
)

MULTIPLYING = frozenset((*_CONVOLUTIONS, *_LINEAR, *_MATRICES, *_ATTENTION, *_RECURRENT))  # without namespace and overload
