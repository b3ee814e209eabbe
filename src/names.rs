//! Model names (ollama-api.md 3), as far as they decide which upstream model is meant.
//!
//! An upstream's ids need not follow Ollama's grammar, so exact ids come first and everything else
//! after. Listed names always carry a tag; on the way in the tag `latest` may be absent or too
//! much. Pure text: which ids exist is for the caller to know.

use crate::error::{Error, Result};

/// The longest name, in bytes: all four of Ollama's parts at their longest stay below it.
const LONGEST: usize = 1024;

/// The tag that a name without one has.
const LATEST: &str = ":latest";

/// The display form: with a tag (3.3).
#[must_use]
pub fn display(id: &str) -> String {
    if tag(id).is_some() { id.to_owned() } else { format!("{id}{LATEST}") }
}

/// The name without `:latest`, when it ends so.
#[must_use]
pub fn without_latest(name: &str) -> Option<&str> {
    let cut = name.len().checked_sub(LATEST.len())?;
    let (bare, end) = (name.get(..cut)?, name.get(cut..)?);
    (end.eq_ignore_ascii_case(LATEST) && !bare.is_empty()).then_some(bare)
}

/// The listed id that a name means: as it is, then with `:latest` removed or added, then either in
/// any case.
pub fn find<'a>(ids: impl Iterator<Item = &'a str> + Clone, name: &str) -> Option<&'a str> {
    let other = match without_latest(name) {
        Some(bare) => bare.to_owned(),
        None => display(name),
    };
    let exact = |wanted: &str| ids.clone().find(|id| *id == wanted);
    let any_case = |wanted: &str| ids.clone().find(|id| id.eq_ignore_ascii_case(wanted));
    exact(name).or_else(|| exact(&other)).or_else(|| any_case(name)).or_else(|| any_case(&other))
}

/// Refuses names that neither Ollama nor an upstream could mean: too long, with control characters,
/// or with a separator that has nothing on one side. The caller has trimmed blanks.
///
/// # Errors
/// [`Error::InvalidRequest`] with Ollama's text.
pub fn check(name: &str) -> Result<()> {
    let separators = name.ends_with([':', '/']) || name.starts_with([':', '/']);
    if separators || name.len() > LONGEST || name.chars().any(char::is_control) {
        return Err(Error::invalid("invalid model name"));
    }
    Ok(())
}

/// What follows the last `:`, if that comes after the last `/` (3.1).
fn tag(name: &str) -> Option<&str> {
    let (_, tag) = name.rsplit_once(':')?;
    (!tag.contains('/')).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_names_carry_a_tag() {
        let check = |id: &str, expected: &str| assert_eq!(display(id), expected);
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
            assert_eq!(find(ids.iter().copied(), name), expected, "{name}");
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
    fn a_bare_name_finds_an_id_that_has_the_tag() {
        assert_eq!(find(["c:latest"].into_iter(), "c"), Some("c:latest"));
    }

    #[test]
    fn impossible_names_are_refused() {
        for name in ["x:", "/x", "a\nb", ":x", "x/"] {
            assert!(check(name).is_err(), "{name:?}");
        }
        assert!(check(&"x".repeat(LONGEST + 1)).is_err());
        for name in ["x", "a b", "@cf/x/y", "a:b:c", "one/two/three/four"] {
            assert!(check(name).is_ok(), "{name:?}");
        }
    }
}
