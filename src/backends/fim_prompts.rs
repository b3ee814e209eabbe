//! The prompts with which models fill in the middle, by their families.
//!
//! For servers whose `completions` takes no `suffix`: the text before and behind the gap goes into the
//! prompt, between tokens that the model's family was trained with. Only families whose tokens their
//! maker or Ollama's library tells are here; a guess would have the model write nonsense.
//! Invariant: a model of no known family has no prompt.

use super::profiles::FimEndpoint;

/// One family of models.
struct Family {
    /// What the id holds, without separators and in lower case.
    parts: &'static [&'static str],
    /// Words of ids of the family's models that were not trained for it.
    excluded: &'static [&'static str],
    tokens: Tokens,
}

/// The tokens of a prompt, in their order.
enum Tokens {
    /// Before the prefix, before the suffix, at the end.
    PrefixFirst([&'static str; 3]),
    /// Before the suffix, before the prefix, at the end.
    SuffixFirst([&'static str; 3]),
}
use Tokens::{PrefixFirst, SuffixFirst};

/// The tokens of StarCoder (arXiv 2305.06161), which many families took over.
const STARCODER: Tokens = PrefixFirst(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]);

/// The tokens of Qwen2.5-Coder and of CodeGemma.
const PIPED: Tokens = PrefixFirst(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]);

/// All families; the first one that fits counts.
const FAMILIES: &[Family] = &[
    // QwenLM/Qwen3-Coder, README.md and examples/Qwen2.5-Coder.md, fill in the middle.
    family(&["qwen2.5coder"], &[], PIPED),
    family(&["qwen3coder"], &[], PIPED),
    // QwenLM/Qwen3-Coder, qwencoder-eval, fim-bench: the tokens of CodeQwen1.5.
    family(&["codeqwen1.5"], &["chat"], STARCODER),
    // meta-llama/codellama, README.md, code infilling: of 7B and 13B, and none of the Python models.
    family(&["codellama"], &["34b", "70b", "python"], PrefixFirst(["<PRE> ", " <SUF>", " <MID>"])),
    // Model cards of bigcode/starcoder, starcoder2-15b and santacoder.
    family(&["starcoder"], &["instruct"], STARCODER),
    family(&["santacoder"], &[], PrefixFirst(["<fim-prefix>", "<fim-suffix>", "<fim-middle>"])),
    // deepseek-ai/DeepSeek-Coder and DeepSeek-Coder-V2, README.md, code insertion.
    family(
        &["deepseekcoder"],
        &[],
        PrefixFirst([
            "<\u{ff5c}fim\u{2581}begin\u{ff5c}>",
            "<\u{ff5c}fim\u{2581}hole\u{ff5c}>",
            "<\u{ff5c}fim\u{2581}end\u{ff5c}>",
        ]),
    ),
    // Model card of google/codegemma-7b: the instructed model is for chats.
    family(&["codegemma"], &["it", "instruct"], PIPED),
    // mistralai/mistral-common, encode_fim: the suffix comes first, and nothing stands at the end.
    family(&["codestral"], &["mamba", "embed"], SuffixFirst(["[SUFFIX]", "[PREFIX]", ""])),
    // tokenizer_config.json of ibm-granite/granite-8b-code-base; granite-3.3 has the same tokens.
    family(&["granite", "code"], &[], STARCODER),
    family(&["granite3.3"], &[], STARCODER),
    // Model card of stabilityai/stable-code-3b.
    family(&["stablecode"], &["instruct", "alpha"], STARCODER),
    // Seed-Coder (arXiv 2506.03524), fill in the middle: of the base model.
    family(
        &["seedcoder"],
        &["instruct", "reasoning"],
        SuffixFirst(["<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"]),
    ),
    // Model card of JetBrains/Mellum-4b-base.
    family(&["mellum4b"], &[], SuffixFirst(["<fim_suffix>", "<fim_prefix>", "<fim_middle>"])),
];

const fn family(
    parts: &'static [&'static str],
    excluded: &'static [&'static str],
    tokens: Tokens,
) -> Family {
    Family { parts, excluded, tokens }
}

/// The prompt with which a model fills the gap between two texts; `None` if its family is unknown.
pub fn build(model: &str, prefix: &str, suffix: &str) -> Option<String> {
    Some(match &find(model)?.tokens {
        PrefixFirst([first, second, last]) => [first, prefix, second, suffix, last].concat(),
        SuffixFirst([first, second, last]) => [first, suffix, second, prefix, last].concat(),
    })
}

/// True if the prompt of a model is known.
pub fn is_known(model: &str) -> bool {
    find(model).is_some()
}

/// True if a model can fill in at an endpoint, as far as is known.
pub fn is_possible(fim: FimEndpoint, model: &str) -> bool {
    match fim {
        FimEndpoint::Unsupported => false,
        FimEndpoint::CompletionsPrompt => is_known(model),
        FimEndpoint::CompletionsSuffix | FimEndpoint::LlamaCppInfill | FimEndpoint::MistralFim => {
            true
        }
    }
}

/// The family of a model's id; what precedes the last slash is ignored.
fn find(model: &str) -> Option<&'static Family> {
    let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let is_separator = |c: char| !c.is_ascii_alphanumeric() && c != '.';
    let compact = name.replace(is_separator, "");
    FAMILIES.iter().find(|family| {
        family.parts.iter().all(|part| compact.contains(part))
            && !name.split(is_separator).any(|word| family.excluded.contains(&word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_its_own_prompt() {
        let starcoder = "<fim_prefix>P<fim_suffix>S<fim_middle>";
        let piped = "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>";
        let deepseek = "<\u{ff5c}fim\u{2581}begin\u{ff5c}>P<\u{ff5c}fim\u{2581}hole\u{ff5c}>S<\u{ff5c}fim\u{2581}end\u{ff5c}>";
        for (model, expected) in [
            ("Qwen/Qwen2.5-Coder-7B-Instruct-AWQ", piped),
            ("qwen2.5-coder:1.5b-base", piped),
            ("Qwen/Qwen3-Coder-30B-A3B-Instruct", piped),
            ("qwen3-coder:30b", piped),
            ("Qwen/CodeQwen1.5-7B", starcoder),
            ("codellama/CodeLlama-13b-Instruct-hf", "<PRE> P <SUF>S <MID>"),
            ("codellama:7b-code", "<PRE> P <SUF>S <MID>"),
            ("bigcode/starcoder2-15b", starcoder),
            ("starcoderbase-1b", starcoder),
            ("bigcode/santacoder", "<fim-prefix>P<fim-suffix>S<fim-middle>"),
            ("deepseek-ai/deepseek-coder-6.7b-base", deepseek),
            ("deepseek-coder-v2:16b", deepseek),
            ("google/codegemma-2b", piped),
            ("codegemma-7b-4bit", piped),
            ("mistralai/Codestral-22B-v0.1", "[SUFFIX]S[PREFIX]P"),
            ("ibm-granite/granite-8b-code-base-4k", starcoder),
            ("granite-code:3b", starcoder),
            ("ibm-granite/granite-3.3-8b-instruct", starcoder),
            ("stabilityai/stable-code-3b", starcoder),
            ("ByteDance-Seed/Seed-Coder-8B-Base", "<[fim-suffix]>S<[fim-prefix]>P<[fim-middle]>"),
            ("JetBrains/Mellum-4b-base", "<fim_suffix>S<fim_prefix>P<fim_middle>"),
        ] {
            assert_eq!(build(model, "P", "S").as_deref(), Some(expected), "{model}");
        }
    }

    #[test]
    fn what_was_not_trained_for_it_has_none() {
        for model in [
            "",
            "m",
            "gpt-4o",
            "Qwen/Qwen2.5-7B-Instruct",
            "qwen3:8b",
            "codellama:34b",
            "CodeLlama-7b-Python-hf",
            "codegemma-7b-it",
            "mistralai/mamba-codestral-7B-v0.1",
            "codestral-embed",
            "bigcode/starcoder2-15b-instruct-v0.1",
            "Seed-Coder-8B-Instruct",
            "stable-code-instruct-3b",
            "deepseek-r1:7b",
            "granite-3.1-8b-instruct",
            "granite-embedding-278m",
            "starcoder/other",
        ] {
            assert!(!is_known(model), "{model}");
        }
    }
}
