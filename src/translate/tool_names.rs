//! The names of a request's tools, as the upstream sees them and as the client declared them.
//!
//! OpenAI takes function names of letters, digits, `_` and `-`, at most 64 (OpenAI API reference, function
//! tools). Clients declare longer ones, other signs, and members of a namespace. Each gets a legal name; the
//! table translates the calls of the history on their way up and the calls of the response on their way back.
//! Pure. Invariant: two tools never have one name, and a tool has the same name wherever it stands.

use std::collections::HashMap;

use crate::api::wire::digest::sha256_hex;

/// The longest name of a function.
const MAX_NAME_LEN: usize = 64;

/// The hex digits of a hash that stand for what a long name lost.
const HASH_DIGITS: usize = 8;

/// A prefix that some models write before the name of a function.
const FUNCTIONS_PREFIX: &str = "functions.";

/// How a tool was declared, which decides the form of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolForm {
    /// A function with a schema.
    Function,
    /// A tool that takes free text.
    Custom,
    /// The search for tools that the client runs.
    ToolSearch,
    /// The shell that the client runs.
    LocalShell,
}

/// A tool as the client declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredTool {
    /// Its form.
    pub form: ToolForm,
    /// The namespace that it is a member of.
    pub namespace: Option<String>,
    /// Its name, without the namespace.
    pub name: String,
}

/// The tools of one request.
#[derive(Clone, Debug, Default)]
pub struct ToolNames {
    /// By the upstream's name.
    tools: HashMap<String, DeclaredTool>,
    /// The upstream's name of each namespace and name.
    upstream_names: HashMap<(Option<String>, String), String>,
    /// The upstream's name of each name without its namespace; `None` if two tools have the name.
    members: HashMap<String, Option<String>>,
    /// The next number of each legal name that several tools would have.
    next_numbers: HashMap<String, u32>,
}

impl ToolNames {
    /// The upstream's name of a tool. A tool that is not known yet is added; of one that is, the first
    /// declaration counts.
    pub fn declare(&mut self, form: ToolForm, namespace: Option<&str>, name: &str) -> &str {
        let namespace = namespace.filter(|it| !it.is_empty()).map(str::to_owned);
        let key = (namespace, name.to_owned());
        if !self.upstream_names.contains_key(&key) {
            let legal = self.free_name(&legal_name(key.0.as_deref(), name));
            let tool = DeclaredTool { form, namespace: key.0.clone(), name: key.1.clone() };
            let member = self.members.entry(key.1.clone());
            member.and_modify(|it| *it = None).or_insert_with(|| Some(legal.clone()));
            self.tools.insert(legal.clone(), tool);
            self.upstream_names.insert(key.clone(), legal);
        }
        &self.upstream_names[&key]
    }

    /// The upstream's name of a tool, if it is known.
    pub fn upstream_name(&self, namespace: Option<&str>, name: &str) -> Option<&str> {
        let namespace = namespace.filter(|it| !it.is_empty()).map(str::to_owned);
        self.upstream_names.get(&(namespace, name.to_owned())).map(String::as_str)
    }

    /// The tool that a call of the upstream means; models write names in several spellings.
    pub fn resolve(&self, upstream_name: &str) -> Option<&DeclaredTool> {
        let bare = bare_name(upstream_name);
        let known = |name: &str| self.tools.get(name);
        known(upstream_name)
            .or_else(|| known(bare))
            .or_else(|| known(&join_namespace(bare)))
            .or_else(|| self.only_member(bare))
    }

    /// True if each tool has the same name on both sides, so that no response needs the table.
    pub fn is_plain(&self) -> bool {
        let is_same = |(upstream, tool): (&String, &DeclaredTool)| {
            tool.form == ToolForm::Function && tool.namespace.is_none() && *upstream == tool.name
        };
        self.tools.iter().all(is_same)
    }

    /// The only tool of this name in any namespace.
    fn only_member(&self, name: &str) -> Option<&DeclaredTool> {
        self.members.get(name)?.as_ref().and_then(|upstream_name| self.tools.get(upstream_name))
    }

    /// The name, with a number if another tool has it.
    fn free_name(&mut self, legal: &str) -> String {
        if !self.tools.contains_key(legal) {
            return legal.to_owned();
        }
        let next = self.next_numbers.entry(legal.to_owned()).or_insert(2);
        loop {
            let end = format!("_{next}");
            let name = format!("{}{end}", &legal[..legal.len().min(MAX_NAME_LEN - end.len())]);
            *next += 1;
            if !self.tools.contains_key(&name) {
                return name;
            }
        }
    }
}

/// A name without what some models write before it.
pub fn bare_name(upstream_name: &str) -> &str {
    upstream_name.strip_prefix(FUNCTIONS_PREFIX).unwrap_or(upstream_name)
}

/// A qualified name with a dot, in the form of the upstream's names.
fn join_namespace(name: &str) -> String {
    legal_name(None, &name.replacen('.', "__", 1))
}

/// The name as every upstream takes it.
fn legal_name(namespace: Option<&str>, name: &str) -> String {
    let full = match namespace {
        Some(namespace) => format!("{namespace}__{name}"),
        None => name.to_owned(),
    };
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let legal: String = full.chars().map(|c| if is_legal(c) { c } else { '_' }).collect();
    if legal.len() <= MAX_NAME_LEN {
        return legal;
    }
    let hash = &sha256_hex(full.as_bytes())[..HASH_DIGITS];
    format!("{}_{hash}", &legal[..MAX_NAME_LEN - HASH_DIGITS - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_legal_and_the_same_each_time() {
        let mut names = ToolNames::default();
        let mut declare = |namespace: Option<&str>, name: &str| {
            names.declare(ToolForm::Function, namespace, name).to_owned()
        };
        assert_eq!(declare(None, "read"), "read");
        assert_eq!(declare(Some("mcp__fs"), "read"), "mcp__fs__read");
        assert_eq!(declare(Some(""), "a.b c"), "a_b_c");
        assert_eq!(declare(None, "a_b_c"), "a_b_c_2", "another tool has the name");
        assert_eq!(declare(None, "a.b c"), "a_b_c", "the same tool again");
        assert_eq!(declare(None, "a.b.c"), "a_b_c_3");
        let long = "é".repeat(70);
        let first = declare(None, &long);
        assert_eq!(first.len(), 64);
        assert!(first.starts_with(&"_".repeat(56)) && first.is_ascii(), "{first}");
        assert_ne!(declare(None, &"ü".repeat(70)), first);
    }

    #[test]
    fn a_call_is_found_in_each_spelling() {
        let mut names = ToolNames::default();
        names.declare(ToolForm::Function, None, "exec_command");
        names.declare(ToolForm::Custom, Some("mcp__x"), "read");
        names.declare(ToolForm::Function, Some("mcp__y"), "write");
        names.declare(ToolForm::Function, Some("mcp__z"), "write");
        let found = |name: &str| {
            names.resolve(name).map(|tool| (tool.namespace.as_deref(), tool.name.as_str()))
        };
        assert_eq!(found("exec_command"), Some((None, "exec_command")));
        assert_eq!(found("functions.exec_command"), Some((None, "exec_command")));
        for name in ["mcp__x__read", "mcp__x.read", "functions.mcp__x.read", "read"] {
            assert_eq!(found(name), Some((Some("mcp__x"), "read")), "{name}");
        }
        assert_eq!(found("write"), None, "two have this name");
        assert_eq!(found("mcp__z.write"), Some((Some("mcp__z"), "write")));
        assert_eq!(names.resolve("read").map(|tool| tool.form), Some(ToolForm::Custom));
        assert_eq!(found("unknown"), None);
        assert_eq!(names.upstream_name(Some("mcp__x"), "read"), Some("mcp__x__read"));
        assert_eq!(names.upstream_name(None, "read"), None);
    }

    #[test]
    fn many_tools_whose_names_collide_take_no_longer_each() {
        let mut names = ToolNames::default();
        let all = (0..20_000_u32).map(|number| char::from_u32(0x4e00 + number).unwrap_or('x'));
        let upstream: Vec<String> = all
            .map(|c| names.declare(ToolForm::Function, None, &c.to_string()).to_owned())
            .collect();
        assert_eq!((upstream[0].as_str(), upstream[19_999].as_str()), ("_", "__20000"));
    }

    #[test]
    fn plain_functions_need_no_table() {
        let mut names = ToolNames::default();
        names.declare(ToolForm::Function, None, "f");
        assert!(names.is_plain());
        names.declare(ToolForm::Custom, None, "g");
        assert!(!names.is_plain());
    }
}
