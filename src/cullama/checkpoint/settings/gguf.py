"""The metadata of GGUF files: keys of a model (without its architecture) and of its tokenizer.

What stands under other prefixes (`general.name`, `quantize.imatrix.…`) is bookkeeping, except
for `general.type`, `general.architecture` and `general.sampling`, which are read.
"""

from __future__ import annotations

from ...model.which_family import EXPERTS
from .verdict import Rule, rule

GGUF_MODEL_RULES: tuple[Rule, ...] = (
    rule(
        "obeyed",
        "sizes; lists of one number a layer where these are equal",
        "embedding_length feed_forward_length block_count attention.head_count"
        " attention.head_count_kv attention.key_length context_length",
    ),
    rule(
        "obeyed",
        "must be the width of a head",
        "rope.dimension_count attention.value_length",
    ),
    rule("obeyed", "the norms' epsilon", "attention.layer_norm_rms_epsilon"),
    rule(
        "obeyed",
        "positions, see What runs",
        "rope.freq_base rope.scaling.type rope.scaling.factor rope.scale_linear"
        " rope.scaling.original_context_length rope.scaling.attn_factor"
        " rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow",
    ),
    rule("obeyed", "a window of all layers", "attention.sliding_window"),
    rule("refused", EXPERTS, "expert_count", 0, 1),
    rule("refused", "attention to later tokens", "attention.causal", True),
    rule("refused", "another scale of attention scores", "attention.scale"
         " attention.temperature_scale attention.temperature_length attention.output_scale"),
    rule("refused", "scaled embeddings, residuals or logits",
         "embedding_scale residual_scale logit_scale", 1),
    rule("refused", "capped logits or attention scores",
         "attn_logit_softcapping final_logit_softcapping router_logit_softcapping", 0),
    rule("refused", "clipped queries, keys and values", "attention.clamp_kqv", 0),
    rule("refused", "positions by slopes", "attention.max_alibi_bias", 0),
    rule("refused", "attention and feed-forward side by side", "use_parallel_residual", False),
    rule("refused", "norms of another kind",
         "attention.layer_norm_epsilon attention.group_norm_epsilon attention.group_norm_groups"),
    rule("refused", "another window in some layers", "attention.sliding_window_pattern"
         " rope.freq_base_swa rope.dimension_count_swa attention.key_length_swa"
         " attention.value_length_swa attention.chunk_size", 1, True),
    rule("refused", "compressed keys and values (MLA)", "attention.q_lora_rank"
         " attention.kv_lora_rank attention.key_length_mla attention.value_length_mla"),
    rule("refused", "several kinds of rotary embedding", "rope.dimension_sections", 0),
    rule("refused", "a YaRN that llama.cpp's other models have",
         "rope.scaling.yarn_log_multiplier", 0),
    rule("refused", "a YaRN of another strength",
         "rope.scaling.yarn_ext_factor rope.scaling.yarn_attn_factor", 1, -1),
    rule("refused", "layers that share a KV cache", "attention.shared_kv_layers", 0),
    rule("refused", "an encoder, or attention to one",
         "decoder_start_token_id decoder_block_count cross_attention_layers pooling_type", 0),
    rule(
        "harmless",
        "how the file was made, or said by its tensors, too",
        "vocab_size tensor_data_layout rope.scaling.finetuned",
    ),
    rule(
        "harmless",
        "of experts that there are none of, or layers that guess ahead",
        "expert_used_count expert_feed_forward_length expert_shared_count expert_weights_scale"
        " expert_weights_norm expert_gating_func expert_group_count expert_group_used_count"
        " expert_shared_feed_forward_length leading_dense_block_count nextn_predict_layers"
        " interleave_moe_layer_step moe_every_n_layers",
    ),
)  # fmt: skip

GGUF_TOKENIZER_RULES: tuple[Rule, ...] = (
    rule(
        "obeyed",
        "tokens, and how text is split into them",
        "model pre tokens scores token_type merges add_space_prefix unknown_token_id",
    ),
    rule(
        "obeyed",
        "tokens that begin a text and end it",
        "bos_token_id eos_token_id eot_token_id eom_token_id add_bos_token add_eos_token",
    ),
    rule(
        "harmless",
        "other tokens' ids",
        "padding_token_id seperator_token_id separator_token_id mask_token_id"
        " cls_token_id prefix_token_id suffix_token_id middle_token_id fim_pre_token_id"
        " fim_suf_token_id fim_mid_token_id fim_pad_token_id fim_rep_token_id fim_sep_token_id",
    ),
    rule(
        "harmless",
        "of encoders",
        "token_type_count add_sep_token precompiled_charsmap remove_extra_whitespaces",
    ),
)

GGUF_SAMPLING_RULES: tuple[Rule, ...] = (
    rule(
        "obeyed",
        "where generation starts from, see Sampling defaults",
        "temp top_k top_p min_p penalty_repeat",
    ),
    rule("warned", "a cut of the distribution that cullama does not make", "xtc_probability", 0),
    rule("warned", "another way to choose tokens", "mirostat", 0),
    rule(
        "warned",
        "another order of the sampler's steps, or tokens that its penalty counts",
        "sequence penalty_last_n",
    ),
    rule("harmless", "of ways to choose tokens that are not taken",
         "xtc_threshold mirostat_tau mirostat_eta"),
)  # fmt: skip
