"""The fields of generation_config.json, some of which older models have in config.json."""

from __future__ import annotations

from .verdict import Rule, rule

GENERATION_CONFIG_RULES: tuple[Rule, ...] = (
    rule(
        "obeyed",
        "where generation starts from, see Sampling defaults",
        "do_sample temperature top_k top_p min_p repetition_penalty max_new_tokens stop_strings",
    ),
    rule("obeyed", "tokens that end an answer", "eos_token_id"),
    rule(
        "warned",
        "another way to choose tokens",
        "num_beams num_beam_groups assistant_early_exit",
        1,
    ),
    rule("warned", "another way to choose tokens", "penalty_alpha", 0),
    rule("warned", "another way to choose tokens", "dola_layers constraints force_words_ids"),
    rule("warned", "a cut of the distribution that cullama does not make", "typical_p", 1),
    rule(
        "warned",
        "a cut of the distribution that cullama does not make",
        "epsilon_cutoff eta_cutoff top_h",
        0,
    ),
    rule(
        "warned",
        "a change of the logits that cullama does not make",
        "no_repeat_ngram_size encoder_no_repeat_ngram_size diversity_penalty min_length"
        " min_new_tokens forced_bos_token_id forced_eos_token_id begin_suppress_tokens"
        " suppress_tokens bad_words_ids sequence_bias exponential_decay_length_penalty"
        " watermarking_config forced_decoder_ids",
        0,
    ),
    rule(
        "warned",
        "a change of the logits that cullama does not make",
        "encoder_repetition_penalty guidance_scale",
        1,
    ),
    rule("warned", "a change of the prompt that cullama does not make", "token_healing", False),
    rule(
        "harmless",
        "of ways to choose tokens that are not taken",
        "length_penalty early_stopping low_memory renormalize_logits remove_invalid_values",
    ),
    rule(
        "harmless",
        "the context's length, or seconds, are asked for by other means",
        "max_length max_time",
    ),
    rule(
        "harmless",
        "how a library computes or what it returns",
        "use_cache cache_implementation cache_config return_legacy_cache output_attentions"
        " output_hidden_states output_scores output_logits return_dict_in_generate"
        " num_return_sequences prefill_chunk_size compile_config disable_compile"
        " continuous_batching_config use_model_defaults",
    ),
    rule(
        "harmless",
        "drafts, which leave the text as it is",
        "is_assistant num_assistant_tokens num_assistant_tokens_schedule"
        " assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size"
        " assistant_lookbehind target_lookbehind",
    ),
    rule(
        "harmless",
        "other tokens' ids",
        "bos_token_id pad_token_id decoder_start_token_id unk_token_id",
    ),
    rule(
        "harmless",
        "names and versions",
        "transformers_version _from_model_config generation_kwargs _commit_hash trust_remote_code"
        " chat_format max_window_size",
    ),
)
