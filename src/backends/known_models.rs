//! Looks up well-known models by id in the table `known_models.txt`.
//!
//! The table fills what the upstream leaves unknown. Its capabilities are shown to clients and never
//! a reason to reject a request. Invariant: the first matching row counts, whatever the spelling of
//! the id.

use std::sync::LazyLock;

use super::capabilities::Capabilities;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownModel {
    /// A part of the normalized id; with a leading `^`, its start.
    pattern: &'static str,
    /// The name of the family.
    pub family: &'static str,
    /// Context length in tokens.
    pub context_length: Option<u64>,
    /// Dimensions of an embedding.
    pub embedding_length: Option<u64>,
    /// What the model can do.
    pub capabilities: Capabilities,
}

/// The rows, each with its pattern in normalized spelling.
static TABLE: LazyLock<Vec<(String, KnownModel)>> = LazyLock::new(|| {
    let rows = include_str!("known_models.txt").lines().filter_map(parse_line);
    rows.map(|row| (normalize_id(row.pattern.trim_start_matches('^')), row)).collect()
});

/// The row of a model id; what precedes the last slash is ignored.
pub fn find(id: &str) -> Option<&'static KnownModel> {
    let id = normalize_id(id.rsplit('/').next().unwrap_or(id));
    let found = TABLE.iter().find(|(pattern, known)| {
        let anchored = known.pattern.starts_with('^');
        match_positions(&id, pattern)
            .any(|at| (at == 0 || !anchored) && ends_on_number_boundary(&id, at + pattern.len()))
    });
    found.map(|(_, known)| known)
}

/// The positions of a pattern in an id. Both are short and there are many patterns: the set-up of
/// the standard library's search for each took 7 % of the time of a request.
fn match_positions(id: &str, pattern: &str) -> impl Iterator<Item = usize> {
    let windows = id.as_bytes().windows(pattern.len());
    windows.enumerate().filter(move |(_, window)| *window == pattern.as_bytes()).map(|(at, _)| at)
}

/// False if a match that ends at `at` splits a number: `gpt-4` does not match `gpt-4.1`, nor `o1`
/// `o10`. A pattern that ends in a letter or a point matches whatever follows.
fn ends_on_number_boundary(id: &str, at: usize) -> bool {
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mut rest = id[at..].chars();
    let next = rest.next();
    !digit(id[..at].chars().next_back())
        || !(digit(next) || (next == Some('.') && digit(rest.next())))
}

/// Converts an id to lower case and removes separators, except between two digits, where `-`
/// replaces them: `Llama-3.1-8B` and `llama3.1:8b` both become `llama3.1-8b`.
fn normalize_id(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    let mut gap = false;
    for c in id.chars() {
        if c.is_ascii_alphanumeric() || c == '.' {
            let between = out.ends_with(|last: char| last.is_ascii_digit()) && c.is_ascii_digit();
            if gap && between {
                out.push('-');
            }
            out.push(c.to_ascii_lowercase());
            gap = false;
        } else {
            gap = true;
        }
    }
    out
}

/// Parses a line of the table; `None` for a comment or an empty line.
fn parse_line(line: &'static str) -> Option<KnownModel> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let mut row = KnownModel {
        pattern: words.next()?,
        family: words.next()?,
        context_length: words.next()?.parse().ok(),
        embedding_length: words.next()?.parse().ok(),
        capabilities: Capabilities::default(),
    };
    for word in words {
        let capabilities = &mut row.capabilities;
        match word {
            "vision" => capabilities.vision = Some(true),
            "tools" => capabilities.tools = Some(true),
            "no-tools" => capabilities.tools = Some(false),
            "thinking" => capabilities.thinking = Some(true),
            "insert" => capabilities.insert = Some(true),
            "embedding" => capabilities.embedding = Some(true),
            "audio" => capabilities.audio = Some(true),
            // Speech, transcription and reranking have no capability in Ollama's list.
            "no-completion" => capabilities.completion = Some(false),
            "image" => (capabilities.completion, capabilities.image) = (Some(false), Some(true)),
            _ => return None,
        }
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_and_none_hides_a_later_one() {
        let lines = include_str!("known_models.txt").lines();
        let lines: Vec<_> =
            lines.filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(TABLE.len(), lines.len());
        for (line, (_, known)) in lines.iter().zip(TABLE.iter()) {
            let mut numbers = line.split_whitespace().skip(2).take(2);
            assert!(numbers.all(|it| it == "-" || it.parse::<u64>().is_ok()), "{line}");
            // A pattern that ends in a point expects a number after it.
            let name = known.pattern.trim_start_matches('^').to_owned();
            let name = if name.ends_with('.') { name + "9" } else { name };
            assert_eq!(find(&name).map(|it| it.pattern), Some(known.pattern), "{line}");
        }
    }

    #[test]
    fn models_are_found_in_every_spelling() {
        let check = |id: &str, pattern: &str| {
            assert_eq!(find(id).map(|known| known.pattern), Some(pattern), "{id}");
        };
        check("gpt-4o-2024-05-13", "gpt-4o");
        check("openai/gpt-4o-mini", "gpt-4o");
        check("gpt-4.1-nano-2025-04-14", "gpt-4.1");
        check("gpt-4-0613", "gpt-4");
        check("gpt-5-mini", "gpt-5");
        check("gpt-5.9-pro", "gpt-5.");
        check("o1-2024-12-17", "^o1");
        check("o3-mini", "^o3-mini");
        check("meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "llama-3.1");
        check("llama3.1:8b", "llama-3.1");
        check("Meta-Llama-3-8B-Instruct.Q4_K_M.gguf", "llama-3");
        check("anthropic/claude-3.5-sonnet", "claude-3.5");
        check("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3");
        check("claude-sonnet-4-20250514", "claude-sonnet-4-20250514");
        check("models/gemini-2.5-pro", "gemini-2.5");
        check("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2.5-coder");
        check("qwen2.5:7b", "qwen2.5");
        check("smollm2:135m", "smollm2");
        check("BAAI/bge-m3", "bge-m3");
        check("intfloat/multilingual-e5-large", "e5-large");
        check("amazon.nova-pro-v1:0", "nova-pro");
        check("gemma3:1b", "gemma-3-1b");
        check("gemma3:12b", "gemma-3");
    }

    #[test]
    fn other_models_are_not_taken_for_well_known_ones() {
        for id in ["olmo1", "o10", "x-o1", "gpt-6", "m", "", "qwen1.5", "llama", "phi", "dolphin3"]
        {
            assert_eq!(find(id), None, "{id}");
        }
    }

    #[test]
    fn families_are_known_whatever_their_size_and_publisher() {
        let check = |ids: &[&str], expected: &[&str]| {
            for id in ids {
                let known = find(id).unwrap_or_else(|| panic!("{id}"));
                assert_eq!(known.capabilities.to_names(), expected, "{id}");
            }
        };
        let vision = [
            "llava-hf/llava-v1.6-mistral-7b-hf",
            "llava:13b",
            "bakllava",
            "OpenGVLab/InternVL3-8B",
            "OpenGVLab/InternVL2_5-4B",
            "openbmb/MiniCPM-V-2_6",
            "minicpm-v:8b",
            "vikhyatk/moondream2",
            "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
            "smolvlm-256m",
            "moonshotai/Kimi-VL-A3B-Instruct",
            "deepseek-ai/deepseek-vl2-tiny",
            "allenai/Molmo-7B-D-0924",
            "google/paligemma2-3b-mix-224",
        ];
        check(&vision, &["completion", "tools", "vision"]);
        let others = [
            "whisper-1",
            "openai/whisper-large-v3-turbo",
            "Systran/faster-whisper-small",
            "tts-1",
            "tts-1-hd",
            "hexgrad/Kokoro-82M",
            "dall-e-3",
            "gpt-image-1",
            "black-forest-labs/FLUX.1-schnell",
            "flux-dev",
            "stabilityai/stable-diffusion-xl",
            "Qwen/Qwen3-Reranker-0.6B",
            "BAAI/bge-reranker-v2-m3",
            "jinaai/jina-reranker-v2-base-multilingual",
            "rerank-v3.5",
            "omni-moderation-latest",
        ];
        check(&others, &[]);
        check(
            &["Qwen/Qwen2-Audio-7B-Instruct", "ultravox-v0_5"],
            &["completion", "tools", "audio"],
        );
        check(&["jina-embeddings-v4", "stella_en_1.5B", "gte-modernbert-base"], &["embedding"]);
    }

    #[test]
    fn no_model_is_said_to_embed_and_to_do_something_else() {
        for (_, known) in TABLE.iter() {
            let other = Capabilities { embedding: Some(true), ..Capabilities::default() };
            let embeds = known.capabilities.embedding == Some(true);
            assert!(!embeds || known.capabilities == other, "{}", known.pattern);
            assert!(embeds || known.embedding_length.is_none(), "{}", known.pattern);
        }
    }
}
