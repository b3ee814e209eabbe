//! The reference of the file, as it stands in `--help` and in the README.
//!
//! Pure: the rows of the tables of keys, as a file that uses each of them.

use super::key_section::KEY_KEYS;
use super::model_keys::MODEL_KEYS;
use super::scope::KeySpec;
use super::upstream_keys::UPSTREAM_KEYS;

/// The column of the comments.
const COMMENT_COLUMN: usize = 26;

/// Keys that exclude another one: shown as comments.
const ALTERNATIVES: &[&str] = &["api_key_file", "key_file"];

/// The sections with every key, as TOML.
pub fn reference() -> String {
    let mut text = "[server]\n".to_owned();
    add_line(&mut text, "host = \"0.0.0.0:11434\"", "any option, by its flag's name");
    text.push_str("\n[[upstream]]\n");
    UPSTREAM_KEYS.iter().for_each(|row| add_row(&mut text, row));
    text.push_str("\n[[model]]\n");
    MODEL_KEYS.iter().for_each(|row| add_row(&mut text, row));
    text.push_str("\n[[key]]\n");
    KEY_KEYS.iter().for_each(|row| add_row(&mut text, row));
    text.truncate(text.trim_end().len());
    text
}

fn add_row<T>(text: &mut String, row: &KeySpec<T>) {
    let mark = if ALTERNATIVES.contains(&row.key) { "# " } else { "" };
    add_line(text, &format!("{mark}{} = {}", row.key, row.example), row.help);
}

fn add_line(text: &mut String, value: &str, help: &str) {
    let space = " ".repeat(COMMENT_COLUMN.saturating_sub(value.len()).max(1));
    text.push_str(&format!("{value}{space}# {help}\n"));
}
