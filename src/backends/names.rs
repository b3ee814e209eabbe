//! Model names: Ollama's grammar (types/model/name.go), and which upstream id a name means.
//!
//! Upstream ids need not follow Ollama's grammar, so an exact id always wins; the grammar and source
//! suffixes matter only for names that no list contains. Names shown to clients always have a tag;
//! in requests the tag `latest`, the prefixes of Ollama's registry and Gemini's `models/` may be
//! present or absent. Pure text: callers supply the existing ids.

use crate::error::{Error, Result};

/// The longest name, in bytes; the longest name that Ollama's grammar allows is shorter.
const MAX_NAME_BYTES: usize = 1024;

/// The tag of a name without one.
const LATEST_TAG: &str = ":latest";

/// Prefixes that Ollama accepts in a name and does not display.
const DEFAULT_PREFIXES: &[&str] = &["https://", "registry.ollama.ai/", LIBRARY_PREFIX];

/// The namespace of a name without one.
const LIBRARY_PREFIX: &str = "library/";

/// The prefix of each id in Gemini's model list; optional in requests.
const GEMINI_PREFIX: &str = "models/";

/// The location of a model that a suffix of its name demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceSuffix {
    /// No suffix.
    None,
    /// `:local`.
    Local,
    /// `:cloud` or a tag that ends in `-cloud`.
    Cloud,
}

/// The form shown to clients: with a tag.
pub fn display_name(id: &str) -> String {
    if tag(id).is_some() { id.to_owned() } else { format!("{id}{LATEST_TAG}") }
}

/// A key that is equal for all spellings of a name: without default prefixes, with a tag, in lower
/// case.
pub fn canonical_key(name: &str) -> String {
    display_name(strip_default_prefixes(name)).to_ascii_lowercase()
}

/// The full form with registry host and namespace, as used in some of Ollama's error texts.
pub fn full_name(name: &str) -> String {
    let name = name.trim();
    let prefix = match name.matches('/').count() {
        0 => "registry.ollama.ai/library/",
        1 => "registry.ollama.ai/",
        _ => "",
    };
    format!("{prefix}{}", display_name(name))
}

/// The name without a trailing `:latest`; `None` if it has another tag or none.
pub fn strip_latest_tag(name: &str) -> Option<&str> {
    let cut = name.len().checked_sub(LATEST_TAG.len())?;
    let (bare, end) = name.split_at_checked(cut)?;
    (end.eq_ignore_ascii_case(LATEST_TAG) && !bare.is_empty()).then_some(bare)
}

/// The name without Ollama's default host and namespace.
pub fn strip_default_prefixes(name: &str) -> &str {
    // A prefix must be followed by a name, and `library/` before a namespace is a host name.
    let is_default = |rest: &&str, prefix| prefix != LIBRARY_PREFIX || !rest.contains('/');
    let rest = |name, prefix| {
        strip_prefix_ignore_case(name, prefix)
            .filter(|rest| is_default(rest, prefix))
            .unwrap_or(name)
    };
    DEFAULT_PREFIXES.iter().fold(name, |name, prefix| rest(name, prefix))
}

/// The id that a name means: the name itself, then with `:latest` removed or added, then both
/// ignoring case; then the same without Ollama's default prefixes, and with Gemini's prefix added or
/// removed. At last, a path may lack its leading slash, which URLs often lose.
pub fn find_id<'a>(ids: impl Iterator<Item = &'a str> + Clone, name: &str) -> Option<&'a str> {
    let short = strip_default_prefixes(name);
    let gemini = match strip_prefix_ignore_case(short, GEMINI_PREFIX) {
        Some(bare) => bare.to_owned(),
        None => format!("{GEMINI_PREFIX}{short}"),
    };
    let path = format!("/{short}");
    let spellings = [name, short, &gemini, &path];
    spellings.into_iter().find_map(|name| find_id_with_tag(ids.clone(), name))
}

fn find_id_with_tag<'a>(ids: impl Iterator<Item = &'a str> + Clone, name: &str) -> Option<&'a str> {
    let other = match strip_latest_tag(name) {
        Some(bare) => bare.to_owned(),
        None => display_name(name),
    };
    let exact = |wanted: &str| ids.clone().find(|id| *id == wanted);
    let any_case = |wanted: &str| ids.clone().find(|id| id.eq_ignore_ascii_case(wanted));
    exact(name).or_else(|| exact(&other)).or_else(|| any_case(name)).or_else(|| any_case(&other))
}

/// Rejects names that are invalid for Ollama and for every upstream: too long, with control
/// characters, or with a separator at the start or the end. The caller has trimmed white space.
///
/// # Errors
/// [`Error::InvalidRequest`] with Ollama's text.
pub fn validate(name: &str) -> Result<()> {
    let has_outer_separator = name.ends_with([':', '/']) || name.starts_with([':', '/']);
    if has_outer_separator || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(invalid_name_error());
    }
    Ok(())
}

/// Ollama's error for a name that violates its grammar.
pub fn invalid_name_error() -> Error {
    Error::invalid_request("invalid model name")
}

/// True if a name follows Ollama's grammar.
pub fn is_valid(name: &str) -> bool {
    let name = ["https://", "http://"]
        .iter()
        .find_map(|scheme| strip_prefix_ignore_case(name, scheme))
        .unwrap_or(name);
    let (path, tag) = match tag(name) {
        Some(tag) => (&name[..name.len() - tag.len() - 1], tag),
        None => (name, "latest"),
    };
    let mut parts = path.rsplitn(3, '/');
    let model = parts.next().unwrap_or_default();
    let (namespace, host) = (parts.next().unwrap_or("library"), parts.next().unwrap_or("h"));
    is_valid_part(tag, 80, "_-.")
        && is_valid_part(model, 80, "_-.")
        && is_valid_part(namespace, 80, "_-")
        && is_valid_part(host, 350, "_-.:")
}

/// True if a name could be an upstream id that the model list omits: it consists of characters that
/// occur in such ids.
pub fn is_plausible(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:/@#+~,=()".contains(&byte))
}

/// Splits the source suffix from a name.
///
/// # Errors
/// [`Error::InvalidRequest`] with Ollama's text if there are two.
pub fn split_source(name: &str) -> Result<(&str, SourceSuffix)> {
    let (bare, source) = split_one_source(name);
    if source != SourceSuffix::None && split_one_source(bare).1 != SourceSuffix::None {
        let text = format!("use either :local or :cloud, not both: {name:?}");
        return Err(Error::invalid_request(text));
    }
    Ok((bare, source))
}

fn split_one_source(name: &str) -> (&str, SourceSuffix) {
    const CLOUD_TAG: &str = "-cloud";
    let Some((bare, tag)) = name.rsplit_once(':').filter(|(bare, _)| !bare.is_empty()) else {
        return (name, SourceSuffix::None);
    };
    let start = tag.len().saturating_sub(CLOUD_TAG.len());
    if tag.eq_ignore_ascii_case("cloud") {
        (bare, SourceSuffix::Cloud)
    } else if tag.eq_ignore_ascii_case("local") {
        (bare, SourceSuffix::Local)
    } else if start > 0 && tag.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(CLOUD_TAG)) {
        (&name[..name.len() - CLOUD_TAG.len()], SourceSuffix::Cloud)
    } else {
        (name, SourceSuffix::None)
    }
}

/// Checks one part of a name: at most `max_length` bytes, of letters, digits and `separators`.
fn is_valid_part(part: &str, max_length: usize, separators: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || separators.contains(c);
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.len() <= max_length && part.starts_with(first) && part.chars().all(allowed)
}

/// Removes a prefix, ignoring case; `None` if nothing would remain.
fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    (start.eq_ignore_ascii_case(prefix) && !rest.is_empty()).then_some(rest)
}

/// The text after the last `:`, if that follows the last `/`.
fn tag(name: &str) -> Option<&str> {
    let (_, tag) = name.rsplit_once(':')?;
    (!tag.contains('/')).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_names_carry_a_tag() {
        let check = |id: &str, expected: &str| assert_eq!(display_name(id), expected);
        check("gpt-4o", "gpt-4o:latest");
        check("smollm2:135m", "smollm2:135m");
        check("qwen/qwen3:8b", "qwen/qwen3:8b");
        check("localhost:5000/team/m", "localhost:5000/team/m:latest");
        check("accounts/x/models/y", "accounts/x/models/y:latest");
    }

    #[test]
    fn exact_ids_win_over_everything_else() {
        let ids = ["a", "a:latest", "B", "c:latest", "d:8b"];
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(find_id(ids.iter().copied(), name), expected, "{name}");
        };
        check("a", Some("a"));
        check("a:latest", Some("a:latest"));
        check("b", Some("B"));
        check("b:LATEST", Some("B"));
        check("B:latest", Some("B"));
        check("c:latest", Some("c:latest"));
        check("C:Latest", Some("c:latest"));
        check("d:8B", Some("d:8b"));
        check("d", None);
        check("e", None);
        check(":latest", None);
    }

    #[test]
    fn a_path_is_found_with_and_without_its_first_slash_and_a_tag() {
        for name in ["/m/x.gguf", "/m/x.gguf:latest", "m/x.gguf", "m/x.gguf:latest"] {
            assert_eq!(find_id(["/m/x.gguf"].into_iter(), name), Some("/m/x.gguf"), "{name}");
        }
        let ids = ["/m/x", "m/x"];
        assert_eq!(find_id(ids.into_iter(), "m/x"), Some("m/x"));
    }

    #[test]
    fn a_bare_name_finds_an_id_that_has_the_tag() {
        assert_eq!(find_id(["c:latest"].into_iter(), "c"), Some("c:latest"));
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in ["x:", "/x", "a\nb", ":x", "x/"] {
            assert!(validate(name).is_err(), "{name:?}");
        }
        assert!(validate(&"x".repeat(MAX_NAME_BYTES + 1)).is_err());
        for name in ["x", "a b", "@cf/x/y", "a:b:c", "one/two/three/four"] {
            assert!(validate(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_host_called_library_is_no_namespace() {
        assert_eq!(canonical_key("registry.ollama.ai/library/m"), "m:latest");
        for name in ["library/m", "library/library/m", "library/a/m:1"] {
            assert_eq!(canonical_key(&canonical_key(name)), canonical_key(name), "{name}");
        }
        assert_ne!(canonical_key("library/library/m"), canonical_key("library/m"));
    }

    #[test]
    fn what_registries_put_in_front_may_be_there_or_not() {
        let ids = ["models/gemini-2.0-flash", "plain", "library/own", "models"];
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(find_id(ids.iter().copied(), name), expected, "{name}");
        };
        check("gemini-2.0-flash", Some("models/gemini-2.0-flash"));
        check("Gemini-2.0-flash:latest", Some("models/gemini-2.0-flash"));
        check("models/gemini-2.0-flash", Some("models/gemini-2.0-flash"));
        check("models/gemini-2.0-flash:latest", Some("models/gemini-2.0-flash"));
        check("models/plain", Some("plain"));
        check("registry.ollama.ai/library/plain:latest", Some("plain"));
        check("https://registry.ollama.ai/library/plain", Some("plain"));
        check("library/plain", Some("plain"));
        check("library/own", Some("library/own"));
        check("models", Some("models"));
        check("models/", None);
    }

    #[test]
    fn all_spellings_of_a_name_have_one_key() {
        for name in [
            "Mario",
            "mario:latest",
            "MARIO:Latest",
            "library/mario",
            "registry.ollama.ai/library/mario",
        ] {
            assert_eq!(canonical_key(name), "mario:latest", "{name}");
        }
        assert_eq!(canonical_key("team/mario:v1"), "team/mario:v1");
    }

    #[test]
    fn the_grammar_is_ollama_s() {
        for name in [
            "llama3.2",
            "qwen/qwen3:8b",
            "hf.co/bartowski/Llama-3.2-3B-GGUF:Q4_K_M",
            "localhost:5000/team/m",
            "http://localhost:5000/team/m:x",
            "_a:_b",
        ] {
            assert!(is_valid(name), "{name}");
        }
        let long = "x".repeat(81);
        for name in [
            "",
            "a:b:c",
            "one/two/three/four",
            "org.name/model",
            "@cf/x/y",
            "a b",
            "model@sha256:00",
            "llama3:",
            "/x",
            "-x",
            "x:-y",
            "é",
            &long,
        ] {
            assert!(!is_valid(name), "{name}");
        }
    }

    #[test]
    fn ids_that_break_the_grammar_are_told_from_nonsense() {
        for name in ["a:b:c", "accounts/x/models/y", "@cf/x/y", "org.name/model", "m#adapter"] {
            assert!(is_plausible(name), "{name}");
        }
        for name in ["a b", "é", "x?y", "\"x\"", "a\\b"] {
            assert!(!is_plausible(name), "{name}");
        }
    }

    #[test]
    fn source_suffixes_come_off() {
        let check = |name: &str, expected: &str, source: SourceSuffix| {
            assert_eq!(
                super::split_source(name).expect("one at most"),
                (expected, source),
                "{name}"
            );
        };
        check("gpt-oss:20b:cloud", "gpt-oss:20b", SourceSuffix::Cloud);
        check("gpt-oss:120b-cloud", "gpt-oss:120b", SourceSuffix::Cloud);
        check("gpt-oss:120b-CLOUD", "gpt-oss:120b", SourceSuffix::Cloud);
        check("llama3.2:Local", "llama3.2", SourceSuffix::Local);
        check("x:8b:local", "x:8b", SourceSuffix::Local);
        check("x", "x", SourceSuffix::None);
        check("x:8b", "x:8b", SourceSuffix::None);
        check("my-cloud", "my-cloud", SourceSuffix::None);
        check("x:-cloud", "x:-cloud", SourceSuffix::None);
        check("x:é-cloud", "x:é", SourceSuffix::Cloud);
    }

    #[test]
    fn two_source_suffixes_are_one_too_many() {
        let check = |name: &str, expected: &str| {
            assert_eq!(super::split_source(name).expect_err("two").message(), expected);
        };
        let text = "use either :local or :cloud, not both: ";
        check("x:local:cloud", &format!("{text}\"x:local:cloud\""));
        check("x:8b-cloud:local", &format!("{text}\"x:8b-cloud:local\""));
        check("x:cloud:local", &format!("{text}\"x:cloud:local\""));
    }
}
