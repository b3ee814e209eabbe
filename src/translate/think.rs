//! The `think` member (ollama-api.md 5.3).

use serde_json::Value;

use crate::error::{Error, Result};

/// What the client wants of the model's reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Think {
    /// Nothing was said: reasoning that comes is shown.
    Unset,
    /// Reasoning is not wanted, and not shown when it comes all the same.
    Off,
    /// Reasoning is wanted.
    On,
}

/// Reads `think`.
///
/// # Errors
/// [`Error::InvalidRequest`] in Ollama's words.
pub fn read(value: Option<&Value>) -> Result<Think> {
    const LEVELS: &[&str] = &["high", "medium", "low", "max"];
    match value {
        None | Some(Value::Null) => Ok(Think::Unset),
        Some(Value::Bool(true)) => Ok(Think::On),
        Some(Value::Bool(false)) => Ok(Think::Off),
        Some(Value::String(level)) if LEVELS.contains(&level.as_str()) => Ok(Think::On),
        Some(Value::String(level)) => Err(Error::invalid(format!(
            "invalid think value: {level:?} (must be \"high\", \"medium\", \"low\", \"max\", true, or false)"
        ))),
        Some(_) => Err(Error::invalid(
            "think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_documented_form_is_read() {
        let check = |value: Value, expected: Think| {
            assert_eq!(read(Some(&value)).expect("valid"), expected, "{value}");
        };
        check(json!(null), Think::Unset);
        check(json!(true), Think::On);
        check(json!(false), Think::Off);
        check(json!("low"), Think::On);
        check(json!("max"), Think::On);
        assert_eq!(read(None).expect("valid"), Think::Unset);
    }

    #[test]
    fn everything_else_is_refused_in_ollama_s_words() {
        let check = |value: Value, expected: &str| {
            assert_eq!(read(Some(&value)).expect_err("refused").message(), expected);
        };
        check(
            json!("foo"),
            r#"invalid think value: "foo" (must be "high", "medium", "low", "max", true, or false)"#,
        );
        check(
            json!(1),
            r#"think must be a boolean or string ("high", "medium", "low", "max", true, or false)"#,
        );
    }
}
