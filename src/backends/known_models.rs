//! Well-known models, by the names that servers give them (openai-wire.md 2.2, last row).
//!
//! The facts stand in `known_models.txt`, with their source and date; here is how one is found. They are
//! what is told when nobody else says anything, and what they say of abilities is a claim: never a
//! reason to refuse a request.

use std::sync::LazyLock;

use crate::models::model::Capabilities;

/// What is known of a family of models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownModel {
    /// A part of the id in its plain spelling; after `^` its beginning.
    pattern: &'static str,
    /// The family's name.
    pub family: &'static str,
    /// The window in tokens.
    pub context_length: Option<u64>,
    /// Numbers in an embedding.
    pub embedding_length: Option<u64>,
    /// What they can do.
    pub capabilities: Capabilities,
}

/// The table, and the plain spelling of each pattern.
static TABLE: LazyLock<Vec<(String, KnownModel)>> = LazyLock::new(|| {
    let known = include_str!("known_models.txt").lines().filter_map(parse_line);
    known.map(|known| (normalize_id(known.pattern.trim_start_matches('^')), known)).collect()
});

/// What is known of a model of this id.
pub fn find(id: &str) -> Option<&'static KnownModel> {
    let id = normalize_id(id.rsplit('/').next().unwrap_or(id));
    let found = TABLE.iter().find(|(pattern, known)| {
        let anchored = known.pattern.starts_with('^');
        match_positions(&id, pattern)
            .any(|at| (at == 0 || !anchored) && ends_on_number_boundary(&id, at + pattern.len()))
    });
    found.map(|(_, known)| known)
}

/// Where a pattern stands in an id. Both are short, and there are many patterns: preparing each for
/// a search, as the standard library does, took a fifteenth of a whole request.
fn match_positions(id: &str, pattern: &str) -> impl Iterator<Item = usize> {
    let windows = id.as_bytes().windows(pattern.len());
    windows.enumerate().filter(move |(_, window)| *window == pattern.as_bytes()).map(|(at, _)| at)
}

/// Whether a number is whole before this point: `gpt-4` is not in `gpt-4.1`, nor `o1` in `o10`. A
/// pattern that ends in a point or a letter may go on in any way.
fn ends_on_number_boundary(id: &str, at: usize) -> bool {
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mut rest = id[at..].chars();
    let next = rest.next();
    !digit(id[..at].chars().next_back())
        || !(digit(next) || (next == Some('.') && digit(rest.next())))
}

/// One spelling for all: lower case, and no signs between words except between two digits, which
/// they keep apart: `Llama-3.1-8B` and `llama3.1:8b` are both `llama3.1-8b`.
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

/// A line of the table; `None` for a remark and for an empty line.
fn parse_line(line: &'static str) -> Option<KnownModel> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let mut known = KnownModel {
        pattern: words.next()?,
        family: words.next()?,
        context_length: words.next()?.parse().ok(),
        embedding_length: words.next()?.parse().ok(),
        capabilities: Capabilities::default(),
    };
    for word in words {
        let (ability, can) = match word {
            "vision" => (&mut known.capabilities.vision, true),
            "tools" => (&mut known.capabilities.tools, true),
            "no-tools" => (&mut known.capabilities.tools, false),
            "thinking" => (&mut known.capabilities.thinking, true),
            "insert" => (&mut known.capabilities.insert, true),
            "embedding" => (&mut known.capabilities.embedding, true),
            _ => return None,
        };
        *ability = Some(can);
    }
    Some(known)
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
            // The point at a pattern's end stands for any number behind it.
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
    fn no_model_is_said_to_embed_and_to_do_something_else() {
        for (_, known) in TABLE.iter() {
            let other = Capabilities { embedding: Some(true), ..Capabilities::default() };
            let embeds = known.capabilities.embedding == Some(true);
            assert!(!embeds || known.capabilities == other, "{}", known.pattern);
            assert!(embeds || known.embedding_length.is_none(), "{}", known.pattern);
        }
    }
}
