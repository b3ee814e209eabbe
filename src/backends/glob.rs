//! Patterns of model ids, as shells have them: `*` is any text and `?` any character. Case does not matter.

/// True if a pattern matches a whole text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut position) = (0, 0);
    // The last star, and where the text that it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    while position < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&text[position]) => {
                at += 1;
                position += 1;
            }
            _ => {
                let Some((star_at, end)) = &mut star else { return false };
                *end += 1;
                (at, position) = (*star_at + 1, *end);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_any_character() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "anything/at:all"),
            ("qwen*", "qwen3-32b"),
            ("qwen*", "Qwen/Qwen3"),
            ("*-base", "llama-3-base"),
            ("*llama*", "meta/Llama-3.2"),
            ("gpt-?", "gpt-5"),
            ("a*b*c", "aXbXbXc"),
            ("exact", "exact"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "x"),
            ("qwen*", "my-qwen"),
            ("*-base", "base-model"),
            ("gpt-?", "gpt-"),
            ("gpt-?", "gpt-55"),
            ("a*b*c", "aXcXb"),
            ("exact", "exactly"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
        assert!(!matches(&format!("{}b", "a*".repeat(100)), &"a".repeat(5000)));
    }
}
