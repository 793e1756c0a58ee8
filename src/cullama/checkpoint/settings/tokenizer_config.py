"""The fields of tokenizer_config.json, which stands beside tokenizer.json."""

from __future__ import annotations

from .verdict import Rule, rule

TOKENIZER_CONFIG_RULES: tuple[Rule, ...] = (
    rule(
        "obeyed",
        "control tokens, their ids and flags",
        "added_tokens_decoder additional_special_tokens extra_special_tokens bos_token eos_token"
        " pad_token unk_token sep_token cls_token mask_token",
    ),
    rule(
        "obeyed",
        "tokens that begin a text and end it, for the classes that transformers obeys them in",
        "add_bos_token add_eos_token tokenizer_class",
    ),
    rule("obeyed", "a space before a text", "add_prefix_space"),
    rule("obeyed", "the chat template, and what it may name", "chat_template"),
    rule("warned", "control tokens split like text", "split_special_tokens", False),
    rule("warned", "code of its own, which transformers runs with trust_remote_code", "auto_map"),
    rule(
        "harmless",
        "transformers' change of spaces after decoding; as in vLLM and llama.cpp, text is what the"
        " tokens spell",
        "clean_up_tokenization_spaces spaces_between_special_tokens",
    ),
    rule(
        "harmless",
        "how tokenizer.json was made, which says it itself",
        "legacy sp_model_kwargs do_lower_case strip_accents tokenize_chinese_chars remove_space"
        " keep_accents errors add_dummy_prefix_space from_slow use_fast vocab_file merges_file"
        " tokenizer_file special_tokens_map_file backend do_basic_tokenize never_split"
        " trim_offsets max_len",
    ),
    rule(
        "harmless",
        "padding and truncation, which cullama has no use for",
        "model_max_length padding_side truncation_side pad_to_multiple_of pad_token_type_id"
        " max_length stride truncation truncation_strategy padding pad_token_id"
        " return_token_type_ids model_input_names",
    ),
    rule(
        "harmless",
        "names, versions, and other inputs than text",
        "name_or_path _name_or_path transformers_version processor_class use_default_system_prompt"
        " model_type device_map trust_remote_code token is_local image_token audio_token"
        " video_token boi_token eoi_token response_schema unsloth_version local_files_only",
    ),
)
