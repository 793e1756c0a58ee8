"""The fields of config.json.

Those that transformers' Llama, Mistral and Qwen read, those by which other models differ from
them, and those that are bookkeeping.
"""

from __future__ import annotations

from ...model.which_family import EXPERT_COUNTS, EXPERTS, PARTS
from .verdict import Rule, rule

CONFIG_JSON_RULES: tuple[Rule, ...] = (
    rule("obeyed", "which family it is", "architectures model_type"),
    rule(
        "obeyed",
        "sizes",
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
        " head_dim vocab_size max_position_embeddings",
    ),
    rule("obeyed", "the norms' epsilon", "rms_norm_eps"),
    rule("obeyed", "the activation: silu, also called swish", "hidden_act"),
    rule(
        "obeyed",
        "positions, see What runs",
        "rope_theta rope_scaling rope_parameters original_max_position_embeddings",
    ),
    rule("obeyed", "biases (Qwen2 has those of q, k and v always)", "attention_bias mlp_bias"),
    rule(
        "obeyed",
        "whether the embedding is the output matrix; of two that differ, both are used",
        "tie_word_embeddings",
    ),
    rule(
        "obeyed",
        "windows of Mistral and Qwen; Llama has none, as in transformers",
        "sliding_window use_sliding_window max_window_layers layer_types",
    ),
    rule("obeyed", "tokens that begin a text and end it", "bos_token_id eos_token_id"),
    # What other models have.
    rule(
        "refused",
        "quantised weights, named by their method",
        "quantization_config quantization compression_config",
    ),
    rule("refused", EXPERTS, " ".join(EXPERT_COUNTS), 0, 1),
    rule("refused", "a model of several parts", " ".join(PARTS)),
    rule(
        "refused",
        "an encoder, or attention to one",
        "is_encoder_decoder add_cross_attention",
        False,
    ),
    rule("refused", "attention to later tokens", "is_causal", True),
    rule("refused", "attention to later tokens", "use_bidirectional_attention", False),
    rule(
        "refused",
        "scaled embeddings",
        "embedding_multiplier scale_emb embedding_scale mup_embedding_multiplier",
        1,
    ),
    rule("refused", "scaled residuals", "residual_multiplier scale_depth residual_scale", 1),
    rule(
        "refused",
        "scaled logits",
        "logit_scale logits_scaling logits_scale logit_multiplier output_multiplier"
        " lm_head_multiplier",
        1,
    ),
    rule(
        "refused",
        "another scale of attention scores",
        "attention_multiplier query_pre_attn_scalar attn_scale attention_scale softmax_scale"
        " mup_attn_multiplier",
    ),
    rule(
        "refused",
        "attention scores scaled by layer or by position",
        "scale_attn_by_inverse_layer_idx reorder_and_upcast_attn attn_temperature_tuning",
        False,
    ),
    rule("refused", "unscaled attention scores", "scale_attn_weights", True),
    rule("refused", "capped logits", "final_logit_softcapping logit_softcapping"),
    rule("refused", "capped attention scores", "attn_logit_softcapping attn_logit_softcap"),
    rule("refused", "clipped queries, keys and values", "clip_qkv qkv_clip clip_kqv"),
    rule(
        "refused",
        "norms of queries and keys in another place",
        "qk_layernorm use_qk_norm qk_norm use_query_key_norm qk_layer_norm",
        False,
    ),
    rule(
        "refused",
        "attention and feed-forward side by side",
        "use_parallel_residual parallel_attn parallel_residual",
        False,
    ),
    rule(
        "refused",
        "norms in another place or of another kind",
        "post_norm use_post_norm sandwich_norm norm_after apply_residual_connection_post_layernorm",
        False,
    ),
    rule(
        "refused",
        "norms of another kind",
        "norm_type normalization_type",
        "rms_norm",
        "rmsnorm",
        "RMSNorm",
        "rms",
    ),
    rule(
        "refused",
        "another activation",
        "hidden_activation activation_function mlp_hidden_act",
        "silu",
        "swish",
    ),
    rule("refused", "a feed-forward without a gate", "gated_mlp use_gated_mlp", True),
    rule(
        "refused",
        "heads that are rotated in part",
        "partial_rotary_factor rotary_pct rope_pct rotary_percent",
        1,
    ),
    rule(
        "refused", "heads whose neighbours are rotated", "rope_interleaved rope_interleave", False
    ),
    rule("refused", "layers without positions", "no_rope_layers", 1),
    rule(
        "refused",
        "several kinds of rotary embedding or window",
        "rope_local_base_freq mrope_section sliding_window_pattern",
    ),
    rule("refused", "positions by slopes or tables", "alibi use_alibi use_mrope", False),
    rule(
        "refused",
        "positions by slopes or tables",
        "position_embedding_type",
        "rope",
        "rotary",
        "absolute",
    ),
    rule(
        "refused",
        "attention by chunks, blocks or sinks",
        "attention_chunk_size num_sink_tokens attention_sink_size block_sparse",
        0,
    ),
    rule("refused", "layers that share a KV cache", "num_kv_shared_layers cla_share_factor", 0, 1),
    rule(
        "refused",
        "compressed keys and values (MLA)",
        "kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim",
    ),
    rule(
        "refused",
        "biases in other places",
        "qkv_bias bias use_bias use_qkv_bias lm_head_bias attention_out_bias",
        False,
    ),
    rule("refused", "heads that were taken out", "pruned_heads"),
    rule(
        "warned",
        "code of its own, which transformers runs with trust_remote_code",
        "auto_map",
    ),
    # What changes nothing.
    rule(
        "harmless",
        "for training",
        "attention_dropout hidden_dropout attn_dropout resid_dropout embd_dropout resid_pdrop"
        " embd_pdrop attn_pdrop mlp_dropout dropout attention_probs_dropout_prob"
        " hidden_dropout_prob classifier_dropout initializer_range initializer_factor"
        " gradient_checkpointing use_bfloat16 output_router_logits router_aux_loss_coef"
        " router_jitter_noise aux_loss_alpha z_loss label_smoothing_factor"
        " vocab_padding_multiple ignore_index",
    ),
    rule(
        "harmless",
        "how a library computes, not what",
        "use_cache use_flash_attn use_flash_attention _flash_attn_2_enabled attn_implementation"
        " _attn_implementation _attn_implementation_autoset _attn_implementation_internal"
        " pretraining_tp tensor_parallel_size torchscript chunk_size_feed_forward return_dict"
        " use_return_dict output_attentions output_hidden_states tf_legacy_loss fused_rms_norm"
        " cache_implementation use_sdpa fuse_norm fuse_swiglu use_triton transformers.js_config"
        " torch_dtype dtype experts_implementation",
    ),
    rule(
        "harmless",
        "names and versions",
        "_name_or_path name_or_path transformers_version _commit_hash model_name unsloth_version"
        " unsloth_fixed is_llama_config license tokenizer_class processor_class _class_name"
        " finetuning_task task_specific_params problem_type id2label label2id num_labels prefix"
        " base_model base_model_name original_architecture transformers_weights model_file"
        " inference eos_token bos_token pad_token mlx_version adapter_path",
    ),
    rule(
        "harmless",
        "lengths of training or of a tokenizer; max_position_embeddings counts",
        "max_sequence_length seq_length max_seq_len model_max_length tokenizer_model_max_length"
        " max_length",
    ),
    rule(
        "harmless",
        "other tokens' ids",
        "pad_token_id unk_token_id sep_token_id mask_token_id decoder_start_token_id"
        " cls_token_id image_token_id image_token_index",
    ),
    rule("harmless", "always so in a decoder", "is_decoder"),
    rule(
        "harmless",
        "layers that guess ahead, and are left out",
        "num_nextn_predict_layers mtp_num_layers num_mtp_layers",
    ),
    rule(
        "harmless",
        "of other norms, or of experts that there are none of",
        "layer_norm_eps layer_norm_epsilon norm_epsilon norm_eps num_experts_per_tok"
        " moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers"
        " shared_expert_intermediate_size n_shared_experts first_k_dense_replace"
        " cross_attention_hidden_size n_group topk_group",
    ),
)

# Within rope_scaling and rope_parameters.
ROPE_RULES: tuple[Rule, ...] = (
    rule(
        "obeyed",
        "the kind of scaling, and what it takes",
        "rope_type type rope_theta factor original_max_position_embeddings low_freq_factor"
        " high_freq_factor",
    ),
    rule(
        "obeyed",
        "of YaRN; other kinds pass them over, as in transformers",
        "beta_fast beta_slow truncate attention_factor mscale mscale_all_dim",
    ),
    rule("refused", "heads that are rotated in part", "partial_rotary_factor", 1),
    rule(
        "refused",
        "a scaling by other means",
        "short_factor long_factor short_mscale long_mscale alpha mrope_section"
        " mrope_interleaved llama_4_scaling_beta",
    ),
    rule("harmless", "whether the model was trained with it", "finetuned"),
)
