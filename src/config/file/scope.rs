//! What the tables of keys read values with: each function gives a value of one type, or says what is
//! wrong and gives none.
//!
//! Invariant: no problem quotes a value, because it may be a secret.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Number, Value};

use super::node::{Item, Member, Node};
use super::problems::Problems;
use crate::config::nearest::suggest;
use crate::config::parsers;
use crate::observe::redact::Secret;

/// What the values of the file are read with.
pub struct Scope<'a> {
    /// The mistakes so far.
    pub problems: Problems,
    /// The lines that sections begin in, in order.
    pub section_lines: Vec<usize>,
    /// The folder of the file, which paths are relative to.
    pub folder: &'a Path,
    /// The user's home folder.
    pub home: Option<String>,
    /// The values of variables that must be masked.
    pub secrets: Vec<Secret>,
}

/// A key of a section: a row of its table.
pub struct KeySpec<T> {
    /// The key.
    pub key: &'static str,
    /// A value, as it would be written.
    pub example: &'static str,
    /// What it means.
    pub help: &'static str,
    /// True if the section must have it.
    pub is_needed: bool,
    /// Reads the value.
    pub apply: fn(&mut T, &Member, &mut Scope<'_>),
}

impl Scope<'_> {
    /// Reads the members of a section by its table of keys.
    pub fn read_section<T>(
        &mut self,
        (name, keys): (&str, &'static [KeySpec<T>]),
        draft: &mut T,
        (line, members): (usize, &[Member]),
    ) {
        for member in members {
            match keys.iter().find(|row| row.key == member.key) {
                Some(row) => (row.apply)(draft, member, self),
                None => {
                    let known: Vec<_> = keys.iter().map(|row| row.key).collect();
                    self.refuse_key(member, name, &known);
                }
            }
        }
        let is_missing = |key: &str| !members.iter().any(|member| member.key == key);
        for row in keys.iter().filter(|row| row.is_needed && is_missing(row.key)) {
            if !self.has_broken_line(line) {
                self.problems.add(line, &format!("{name} needs {}", row.key));
            }
        }
    }

    /// Says that the key is not known, and which one may be meant.
    pub fn refuse_key(&mut self, member: &Member, section: &str, known: &[&str]) {
        let key = show_name(&member.key);
        let hint = suggest(&member.key, known.iter().copied())
            .unwrap_or_else(|| format!("known keys are {}", known.join(", ")));
        self.problems.add(member.line, &format!("unknown key {key} in {section}: {hint}"));
    }

    /// Says what is wrong with a member's value.
    pub fn refuse(&mut self, member: &Member, why: &str) {
        self.problems.add(member.line, &format!("{}: {why}", member.key));
    }

    /// Says what is wrong with an item of a member's value.
    pub fn refuse_item(&mut self, member: &Member, item: &Node, why: &str) {
        self.problems.add(item.line, &format!("{}: {why}", member.key));
    }

    /// Whether a line of the section that begins here cannot be read: what is missing may stand there.
    pub fn has_broken_line(&self, line: usize) -> bool {
        let next = self.section_lines.iter().find(|next| **next > line);
        self.problems.is_any_broken(&(line..next.copied().unwrap_or(usize::MAX)))
    }

    /// Sets a field to a value, or says why not.
    pub fn set<T>(&mut self, slot: &mut T, member: &Member, value: Option<Result<T, String>>) {
        match value {
            Some(Ok(value)) => *slot = value,
            Some(Err(why)) => self.refuse(member, &why),
            None => {}
        }
    }

    /// Sets a field to what `parse` makes of a text that is not empty, or says why not.
    pub fn set_text<T>(
        &mut self,
        slot: &mut T,
        member: &Member,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) {
        let value = self.text(member).map(parse);
        self.set(slot, member, value);
    }

    /// A text that is not empty.
    pub fn text<'n>(&mut self, member: &'n Member) -> Option<&'n str> {
        self.item_text(member, &member.node)
    }

    /// The same of an item.
    pub fn item_text<'n>(&mut self, member: &Member, node: &'n Node) -> Option<&'n str> {
        match &node.item {
            Item::Text(text) if text.trim().is_empty() => {
                self.refuse_item(member, node, "must not be empty");
                None
            }
            Item::Text(text) => Some(text),
            _ => self.refuse_type(member, node, "a string"),
        }
    }

    /// A boolean.
    pub fn boolean(&mut self, member: &Member) -> Option<bool> {
        match member.node.item {
            Item::Boolean(value) => Some(value),
            _ => self.refuse_type(member, &member.node, "true or false"),
        }
    }

    /// A whole number within bounds.
    pub fn integer(&mut self, member: &Member, allowed: RangeInclusive<u64>) -> Option<u64> {
        let Item::Integer(number) = member.node.item else {
            return self.refuse_type(member, &member.node, "a whole number");
        };
        let found = u64::try_from(number).ok().filter(|number| allowed.contains(number));
        if found.is_none() {
            let (start, end) = (allowed.start(), allowed.end());
            self.refuse(member, &format!("expected a whole number from {start} to {end}"));
        }
        found
    }

    /// A number as text, as the parsers of options take it.
    pub fn number_text(&mut self, member: &Member) -> Option<String> {
        match member.node.item {
            Item::Integer(number) => Some(number.to_string()),
            Item::Float(number) => Some(number.to_string()),
            _ => self.refuse_type(member, &member.node, "a number"),
        }
    }

    /// The items of an array.
    pub fn list<'n>(&mut self, member: &'n Member) -> Option<&'n [Node]> {
        match &member.node.item {
            Item::List(nodes) => Some(nodes),
            _ => self.refuse_type(member, &member.node, "an array"),
        }
    }

    /// The texts of an array that is not empty, each of them not empty.
    pub fn texts<'n>(&mut self, member: &'n Member) -> Option<Vec<(&'n Node, &'n str)>> {
        let nodes = self.list(member)?;
        if nodes.is_empty() {
            self.refuse(member, "must not be empty");
        }
        let texts = nodes.iter().map(|node| Some((node, self.item_text(member, node)?.trim())));
        // All are read, so that each mistake is told.
        texts.collect::<Vec<_>>().into_iter().collect()
    }

    /// The members of a table.
    pub fn table<'n>(&mut self, member: &'n Member) -> Option<&'n [Member]> {
        match &member.node.item {
            Item::Table(members) => Some(members),
            _ => self.refuse_type(member, &member.node, "a table"),
        }
    }

    /// The path of a file, relative to the folder of this one.
    pub fn path(&mut self, member: &Member) -> Option<PathBuf> {
        let text = self.text(member)?;
        match parsers::parse_path(text) {
            Ok(path) => Some(self.resolve(path)),
            Err(why) => {
                self.refuse(member, &why);
                None
            }
        }
    }

    /// A path from the folder of the file on.
    pub fn resolve(&self, path: PathBuf) -> PathBuf {
        self.folder.join(parsers::expand_home(path, self.home.clone()))
    }

    /// A table as JSON.
    pub fn object(&mut self, member: &Member) -> Option<Map<String, Value>> {
        let members = self.table(member)?;
        Some(
            members
                .iter()
                .filter_map(|it| Some((it.key.clone(), self.json(member, &it.node)?)))
                .collect(),
        )
    }

    /// A value as JSON.
    pub fn json(&mut self, member: &Member, node: &Node) -> Option<Value> {
        match &node.item {
            Item::Text(text) => Some(Value::String(text.clone())),
            Item::Integer(number) => Some(Value::from(*number)),
            Item::Float(number) => match Number::from_f64(*number) {
                Some(number) => Some(Value::Number(number)),
                None => self.refuse_type(member, node, "a finite number"),
            },
            Item::Boolean(value) => Some(Value::Bool(*value)),
            Item::List(nodes) => {
                Some(Value::Array(nodes.iter().filter_map(|it| self.json(member, it)).collect()))
            }
            Item::Table(members) => {
                let json = |it: &Member| Some((it.key.clone(), self.json(member, &it.node)?));
                Some(Value::Object(members.iter().filter_map(json).collect()))
            }
            Item::Time | Item::Unknown => {
                self.refuse_type(member, node, "a string, number, boolean, array or table")
            }
        }
    }

    /// Masks the values of all variables in a value.
    pub fn mask_variables(&mut self, node: &Node) {
        self.secrets.extend(node.variables.iter().map(Secret::new));
        match &node.item {
            Item::List(nodes) => nodes.iter().for_each(|node| self.mask_variables(node)),
            Item::Table(members) => members.iter().for_each(|it| self.mask_variables(&it.node)),
            _ => {}
        }
    }

    fn refuse_type<T>(&mut self, member: &Member, node: &Node, expected: &str) -> Option<T> {
        if !matches!(node.item, Item::Unknown) {
            let found = node.item.type_name();
            self.refuse_item(member, node, &format!("expected {expected}, found {found}"));
        }
        None
    }
}

/// A name of the file for messages; anything else than a plain name may be a value in the wrong place.
pub fn show_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    let is_short = name.len() <= 64;
    if is_short && name.chars().all(is_plain) {
        format!("{name:?}")
    } else {
        "(not shown)".to_owned()
    }
}
