//! The section `[server]`: the options of the option table, by their keys.

use serde_json::Value;

use super::node::{Item, Member, Node};
use super::scope::Scope;
use crate::config::options::{OPTIONS, OptionSpec};
use crate::config::parsers;
use crate::config::raw::OptionValue;

/// The section's name in messages.
pub const SECTION: &str = "[server]";

/// Every key of the section.
pub fn keys() -> Vec<String> {
    rows().map(OptionSpec::file_key).collect()
}

/// The options that a file can set: all but the file itself.
fn rows() -> impl Iterator<Item = &'static OptionSpec> {
    OPTIONS.iter().filter(|row| row.variable != "PROXY_CONFIG")
}

/// The values of the options, as text.
pub fn read(
    member: &Member,
    file: &str,
    scope: &mut Scope<'_>,
) -> Vec<(&'static OptionSpec, OptionValue)> {
    let mut values: Vec<(&OptionSpec, OptionValue)> = Vec::new();
    let Item::Table(members) = &member.node.item else {
        if !matches!(member.node.item, Item::Unknown) {
            scope.problems.add(
                member.line,
                &format!("write the section as {SECTION}, in single brackets, and once"),
            );
        }
        return values;
    };
    for option in members {
        let key = option.key.replace('_', "-");
        let Some(row) =
            rows().find(|row| row.file_key() == key || row.variables().any(|it| it == option.key))
        else {
            let known = keys();
            let known: Vec<_> = known.iter().map(String::as_str).collect();
            scope.refuse_key(option, SECTION, &known);
            continue;
        };
        if values.iter().any(|(known, _)| known.variable == row.variable) {
            scope.refuse(option, "set twice");
        }
        let Some(text) = text_of(row, option, scope) else { continue };
        if text.trim().is_empty() {
            continue;
        }
        let label = format!("{file}:{}: {}", option.node.line, option.key);
        let is_masked = has_variable(&option.node);
        let line = Some(option.node.line);
        values.push((row, OptionValue { label, is_flag: false, is_masked, line, text }));
    }
    values
}

/// The value in the form that the option's variable takes.
fn text_of(row: &OptionSpec, option: &Member, scope: &mut Scope<'_>) -> Option<String> {
    match &option.node.item {
        Item::Text(text) if row.is_path && !text.starts_with('~') && !text.trim().is_empty() => {
            // A text that is no path is refused with the option.
            let path = parsers::parse_path(text.trim()).map(|path| scope.resolve(path));
            Some(path.map_or_else(|_| text.clone(), |path| path.to_string_lossy().into_owned()))
        }
        Item::Text(text) => Some(text.trim().to_owned()),
        Item::Integer(number) => Some(number.to_string()),
        Item::Float(number) => Some(number.to_string()),
        Item::Boolean(value) => Some(value.to_string()),
        Item::List(_) if !row.separator.is_empty() => {
            let texts = scope.texts(option)?;
            Some(texts.iter().map(|(_, text)| *text).collect::<Vec<_>>().join(row.separator))
        }
        Item::Table(_) if row.variable == "UPSTREAM_EXTRA_BODY" => {
            Some(Value::Object(scope.object(option)?).to_string())
        }
        Item::Unknown => None,
        other => {
            let expected =
                if row.separator.is_empty() { "a single value" } else { "a string or an array" };
            let why = format!("expected {expected}, found {}", other.type_name());
            scope.refuse(option, &why);
            None
        }
    }
}

/// Whether a variable stands anywhere in a value.
fn has_variable(node: &Node) -> bool {
    let nested = match &node.item {
        Item::List(nodes) => nodes.iter().any(has_variable),
        Item::Table(members) => members.iter().any(|member| has_variable(&member.node)),
        _ => false,
    };
    nested || !node.variables.is_empty()
}
